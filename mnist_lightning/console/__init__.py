"""What every script shares: a process that starts fast, a help that can be read, errors in one line."""
