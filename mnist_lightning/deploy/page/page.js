// Strokes are kept as points of the paper, so that they can be undone, and drawn again in other colours. A picture that was
// dropped, pasted or chosen lies there instead of them until it is cleared. While one draws, one question at a time is on
// its way; when its answer comes, the newest drawing is the next.
const WIDTH = 480, HEIGHT = 360, PEN = 20, PAUSE = 40, FINEST = 2; // pixels of a picture that is asked about, for each of the paper's
const ROOM = 12; // classes that are listed in their order; of more, the likeliest come first
const $ = selector => document.querySelector(selector);
const canvas = $("canvas"), boxes = $("#boxes"), message = $("#message");
let strokes = [], drawing = false, wanted = 0, sent = 0, busy = false, focus = [0, 0], asked = null, before = null;
let photo = null, names = [], invitation = "";

// Where what is asked about lies on the paper, in its units: all of it, or the picture, as large as it gets
function frame() {
    if (!photo) return { x: 0, y: 0, width: WIDTH, height: HEIGHT };
    const scale = Math.min(WIDTH / photo.width, HEIGHT / photo.height), [width, height] = [photo.width * scale, photo.height * scale];
    return { x: (WIDTH - width) / 2, y: (HEIGHT - height) / 2, width, height };
}

// What is asked about: the drawing, black on nothing; or the picture alone
function paper() {
    const { width, height } = frame(), scale = photo ? Math.min(FINEST, photo.width / width) : 1;
    const sides = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
    const target = Object.assign(document.createElement("canvas"), sides);
    if (photo) paint(target, 0, 0, target.width, target.height); else render(target);
    return target;
}

function paint(target, ...place) {
    Object.assign(target.getContext("2d"), { imageSmoothingQuality: "high" }).drawImage(photo, ...place);
}

async function take(file) {
    if (!file) return;
    try {
        photo = await createImageBitmap(file);
    } catch {
        message.textContent = "This browser cannot read that; give a picture, such as a PNG or a JPEG.";
        return;
    }
    [strokes, focus, asked, before] = [[], [WIDTH / 2, HEIGHT / 2], null, null];
    changed();
}

function render(target) {
    const pen = target.getContext("2d"), scale = target.width / WIDTH;
    pen.clearRect(0, 0, target.width, target.height);
    if (photo) {
        const { x, y, width, height } = frame();
        return paint(target, x * scale, y * scale, width * scale, height * scale);
    }
    Object.assign(pen, { lineCap: "round", lineJoin: "round", lineWidth: PEN * scale });
    pen.strokeStyle = target === canvas ? getComputedStyle(canvas).color : "#000";
    for (const stroke of strokes) {
        pen.beginPath();
        pen.moveTo(...stroke[0].map(at => at * scale));
        for (const point of stroke) pen.lineTo(...point.map(at => at * scale));
        pen.stroke();
    }
}

function point({ clientX, clientY }) {
    const place = canvas.getBoundingClientRect();
    return [(clientX - place.left) / place.width * WIDTH, (clientY - place.top) / place.height * HEIGHT];
}

function extend(event) {
    strokes.at(-1).push(...[...(event.getCoalescedEvents?.() ?? []), event].map(point));
    focus = strokes.at(-1).at(-1);
    changed();
}

function changed() {
    render(canvas);
    ask();
}

function ask() {
    wanted++;
    if (!busy) next();
}

async function next() {
    busy = true;
    while (sent < wanted) {
        sent = wanted;
        if (!strokes.length && !photo) { show({}); continue; }
        try {
            const asking = paper(), place = frame(), scale = place.width / asking.width;
            const png = await new Promise(done => asking.toBlob(done, "image/png"));
            const at = { x: (focus[0] - place.x) / scale, y: (focus[1] - place.y) / scale };
            const where = new URLSearchParams({ ...at, ...(asked === null ? {} : { label: asked }) });
            const options = { method: "POST", body: png, headers: { "Content-Type": "image/png" } };
            const answer = await (await fetch("read?" + where, options)).json();
            answer.digits?.forEach(it => {
                Object.assign(it, { x: place.x + it.x * scale, y: place.y + it.y * scale, width: it.width * scale, height: it.height * scale });
            });
            if (strokes.length || photo) show(answer);
        } catch {
            message.textContent = "The demo has ended. Start it again, and reload this page.";
        }
        await new Promise(done => setTimeout(done, PAUSE));
    }
    busy = false;
}

const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
};
const picture = (src, alt) => element("img", { src, alt });
const signed = value => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(1);
const name = label => names[label] ?? label;

function show(answer) {
    const digits = answer.digits ?? [], read = digits.length > 0;
    message.textContent = answer.message ?? (strokes.length || photo ? "" : invitation);
    boxes.replaceChildren(...digits.map(({ x, y, width, height }, index) => {
        const box = element("div", { className: index === answer.chosen && digits.length > 1 ? "chosen" : "" });
        const sides = { left: x / WIDTH, top: y / HEIGHT, width: width / WIDTH, height: height / HEIGHT };
        for (const [side, share] of Object.entries(sides)) box.style[side] = `${100 * share}%`;
        return box;
    }));
    $("#read").replaceChildren(...(digits.length > 1 ? digits : []).map(({ x, y, width, height, label, share }, index) => {
        const look = () => { focus = [x + width / 2, y + height / 2]; ask(); };
        const button = element("button", { textContent: name(label), title: percent(share), onclick: look });
        button.ariaPressed = index === answer.chosen;
        return button;
    }));
    $("#answer .picture").replaceChildren(...(read ? [picture(answer.seen, "the pixels that it sees")] : []));
    $("output").textContent = read ? name(answer.answer) : "";
    const places = read && names.length > ROOM ? names.map((_, label) => answer.shares.filter(it => it > answer.shares[label]).length) : [];
    document.querySelectorAll("#answer li").forEach((row, label) => {
        row.style.order = places[label] ?? label;
        const share = read ? percent(answer.shares[label]) : "";
        row.className = label === answer.answer ? "first" : "";
        row.querySelector("i").style.width = share;
        row.querySelector("span").textContent = share;
        row.firstChild.ariaPressed = read && label === answer.asked && asked !== null;
    });
    showWhy(read ? answer : null);
    if (read) tick(answer);
}

function showWhy(answer) {
    document.querySelectorAll(".asked").forEach(place => { place.textContent = answer ? name(answer.asked) : "that"; });
    $("#evidence").replaceChildren(...(answer ? [picture(answer.evidence.picture, "what each pixel says")] : []));
    $("#for").textContent = answer ? signed(answer.evidence.for) : "";
    $("#against").textContent = answer ? signed(answer.evidence.against) : "";
    $("#method").textContent = !answer ? "" : answer.evidence.exact
        ? `Exact: with ${signed(answer.evidence.rest)} for what is the same in every drawing, this is all that the net adds up.`
        : "Gradient times pixel: right for small changes. A net of more layers has no exact sum.";
    const { awake, count, shown } = answer?.units ?? { shown: [] }, most = Math.max(1e-6, ...shown.map(unit => unit.output));
    $("#units .count").textContent = answer ? `${awake} of ${count}` : "";
    $("#units .row").replaceChildren(...shown.map(({ picture: weights, label, output, vote }) => {
        const bar = element("i", { className: vote < 0 ? "no" : "yes" });
        bar.style.width = `${100 * Math.max(0, output / most)}%`;
        const caption = (label === null ? "" : `${name(label)}: `) + (vote === null ? output.toFixed(1).replace("-", "−") : signed(vote));
        const cell = element("div", { className: "cell" }, picture(weights, "weights"));
        return element("figure", {}, cell, element("div", { className: "bar" }, bar), element("figcaption", { textContent: caption }));
    }));
    $("#units .note").textContent = answer?.units.note ?? "What each unit looks for: blue wakes it, orange puts it to sleep.";
    const alike = answer?.alike ?? { shown: [], note: "" };
    $("#alike .row").replaceChildren(...alike.shown.map(({ picture: image, label }) => element("figure", {},
        element("div", { className: "cell" }, picture(image, "training image")), element("figcaption", { textContent: name(label) }))));
    $("#alike .note").textContent = alike.note;
}

// Things to try, ticked off as they are done. A single stroke: the answer was another when the last one ended.
function tick({ digits, shares, answer }) {
    if (drawing) return;
    const one = digits.length === 1, [first, second] = [...shares].sort((a, b) => b - a);
    const done = {
        sure: first >= .999, torn: second > .3, five: digits.length >= 5, unsure: first < .5,
        changed: one && before !== null && before !== answer,
    };
    for (const [task, so] of Object.entries(done)) if (so) $(`[data-task=${task}]`).classList.add("done");
    before = one ? answer : null;
}

const percent = share => `${(100 * share).toFixed(1)}%`;

canvas.addEventListener("pointerdown", event => {
    if (!event.isPrimary || event.button) return;
    if (photo) { focus = point(event); return ask(); } // a tap asks about what is there
    canvas.setPointerCapture(event.pointerId);
    strokes.push([]);
    drawing = true;
    extend(event);
});
canvas.addEventListener("pointermove", event => { if (drawing && event.isPrimary) extend(event); });
canvas.addEventListener("lostpointercapture", () => { drawing = false; ask(); });
$("#clear").onclick = () => { strokes = []; photo = asked = before = null; changed(); };
$("#undo").onclick = () => { strokes.pop(); photo = null; before = null; focus = strokes.at(-1)?.at(-1) ?? focus; changed(); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render(canvas));

addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => { event.preventDefault(); take(event.dataTransfer.files[0]); });
addEventListener("paste", event => take(event.clipboardData.files[0]));
$("#choose").onclick = () => $("#file").click();
$("#file").onchange = ({ target }) => { take(target.files[0]); target.value = ""; };

fetch("about").then(about => about.json()).then(about => {
    ({ names } = about);
    const digits = names.every(text => /^\d$/.test(text));
    invitation = about.several ? `Draw ${digits ? "a digit" : "one"} here, or several; or drop a picture, or paste one.`
        : "Drop a picture here, or paste one, or draw.";
    $("#units .title").textContent = about.units;
    $("h1").textContent = document.title = digits ? "Draw a digit" : about.several ? "Draw" : "Give it a picture";
    $("#answer").className = names.some(text => text.length > 2) ? "words" : "";
    $("ol").className = names.length > ROOM ? "many" : "";
    $("ol").style.setProperty("--name", `${.65 * Math.min(14, Math.max(...names.map(text => text.length)))}em`);
    $("[data-task=five]").hidden = !about.several;
    $("#about").textContent = `${about.model} ${about.tested}`;
    $("ol").append(...names.map((text, label) => {
        const why = () => { asked = asked === label ? null : label; ask(); };
        const cells = [element("b", { textContent: text }), element("div", {}, element("i")), element("span")];
        return element("li", {}, element("button", { title: `Why ${text}, or why not?`, onclick: why }, ...cells));
    }));
    show({});
});
