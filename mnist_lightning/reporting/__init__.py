"""A wing: test results as a table, as plots and as a page. Nothing in the heart asks for it."""
