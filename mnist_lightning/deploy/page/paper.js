// Ink on nothing. A new value, the drawing as a data: URL, is Gradio's change event; one that is empty clears the paper.
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let last = null;

function draw(event) {
    const place = canvas.getBoundingClientRect(), scale = canvas.width / place.width;
    const style = { lineCap: "round", lineWidth: canvas.width / 15, strokeStyle: getComputedStyle(canvas).color };
    Object.assign(pen, style);
    for (const { clientX, clientY } of [...(event.getCoalescedEvents?.() ?? []), event]) {
        const next = [(clientX - place.left) * scale, (clientY - place.top) * scale];
        pen.beginPath();
        pen.moveTo(...(last ?? next));
        pen.lineTo(...next);
        pen.stroke();
        last = next;
    }
    props.value = canvas.toDataURL();
}

canvas.addEventListener("pointerdown", event => {
    if (!event.isPrimary || event.button) return;
    canvas.setPointerCapture(event.pointerId);
    draw(event);
});
canvas.addEventListener("pointermove", event => { if (last && event.isPrimary) draw(event); });
canvas.addEventListener("lostpointercapture", () => { last = null; });
watch("value", () => { if (!props.value) pen.clearRect(0, 0, canvas.width, canvas.height); });
