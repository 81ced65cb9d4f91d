// The images in the plane: drag to move, wheel or pinch to zoom, lasso to select.

import { plane } from "./plane.js";

export function map(canvas, { points, groupOf, colour, listed, selected, hover, select, open, says }) {
  const context = canvas.getContext("2d");
  const count = points.length / 2;
  let current = -1, lassoing = false, circle = 0, order = null;
  const view = plane(canvas, points, { paint, moved: () => hover(-1) });

  // Rows by group, so that a colour is set once for many points.
  function ordered() {
    if (order) return order;
    const groups = groupOf(), sizes = new Map();
    for (let i = 0; i < count; i++) sizes.set(groups[i], (sizes.get(groups[i]) ?? 0) + 1);
    const starts = new Map();
    let at = 0;
    for (const [group, size] of [...sizes].sort((a, b) => a[0] - b[0])) { starts.set(group, at); at += size; }
    order = new Uint32Array(count);
    for (let i = 0; i < count; i++) {
      const place = starts.get(groups[i]);
      order[place] = i;
      starts.set(groups[i], place + 1);
    }
    return order;
  }
  function paint(width, height) {
    const rows = ordered(), groups = groupOf(), inList = listed(), chosen = selected(), { x: screenX, y: screenY } = view;
    context.clearRect(0, 0, width, height);
    const size = Math.max(1.6, Math.min(7, Math.sqrt(width * height / count) * 0.35 * Math.sqrt(view.zoomed)));
    for (const strong of [false, true]) {
      context.globalAlpha = strong ? 0.9 : 0.22;
      let group = -1;
      for (let k = 0; k < count; k++) {
        const i = rows[k];
        if (Boolean(inList[i]) !== strong) continue;
        if (groups[i] !== group) { group = groups[i]; context.fillStyle = colour(group); }
        const x = screenX(i), y = screenY(i);
        if (x < -8 || y < -8 || x > width + 8 || y > height + 8) continue;
        context.fillRect(x - size / 2, y - size / 2, size, size);
      }
    }
    context.globalAlpha = 1;
    const ink = getComputedStyle(canvas).color;
    context.strokeStyle = ink;
    context.lineWidth = 1.5;
    for (const i of chosen) context.strokeRect(screenX(i) - size / 2 - 1.5, screenY(i) - size / 2 - 1.5, size + 3, size + 3);
    if (current >= 0) {
      context.lineWidth = 2.5;
      context.beginPath();
      context.arc(screenX(current), screenY(current), Math.max(9, circle * view.scale), 0, 7);
      context.stroke();
    }
    const path = view.path;
    if (path?.length > 1) {
      context.setLineDash([5, 4]);
      context.beginPath();
      path.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.stroke();
      context.globalAlpha = 0.08;
      context.fillStyle = ink;
      context.fill();
      context.globalAlpha = 1;
      context.setLineDash([]);
    }
  }
  function inside(path) {
    const found = [];
    for (let i = 0; i < count; i++) {
      const x = view.x(i), y = view.y(i);
      let odd = false;
      for (let k = 0, j = path.length - 1; k < path.length; j = k++) {
        const [ax, ay] = path[k], [bx, by] = path[j];
        if ((ay > y) !== (by > y) && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
      }
      if (odd) found.push(i);
    }
    return found;
  }
  function go(place) {
    current = place;
    circle = 0;
    if (place >= 0) { view.bring(place); says(place); }
    view.draw();
  }
  function grow() {
    if (current < 0) return;
    circle = circle ? circle * 1.5 : 0.01;
    const found = [], reach = circle * circle;
    for (let i = 0; i < count; i++) {
      const dx = points[2 * i] - points[2 * current], dy = points[2 * i + 1] - points[2 * current + 1];
      if (dx * dx + dy * dy <= reach) found.push(i);
    }
    select(found, false);
  }
  function key(event) {
    if (view.key(event, current, go)) return true;
    if (event.key === " ") { if (current >= 0) select([current], true); }
    else if (event.key === "g" || event.key === "G") grow();
    else if (event.key === "Enter") { if (current >= 0) open(current); }
    else return false;
    event.preventDefault();
    return true;
  }
  function setLasso(on) {
    lassoing = on;
    canvas.classList.toggle("drawing", on);
  }

  const more = (event) => event.ctrlKey || event.metaKey;
  view.listen({
    hover: (x, y, event) => hover(view.nearest(x, y), event.clientX, event.clientY),
    draws: (event) => lassoing || event.shiftKey,
    drawn: (path, event) => select(inside(path), more(event)),
    tap(x, y, event) {
      const touched = event.pointerType === "touch", found = view.nearest(x, y, touched ? 28 : 14);
      go(found);
      if (found >= 0) select([found], more(event) || touched);
      if (found >= 0 && touched) hover(found, event.clientX, event.clientY);
    },
  });
  canvas.addEventListener("dblclick", () => { if (current >= 0) open(current); });

  return {
    draw: view.draw, zoom: view.zoom, whole: view.whole, key, setLasso, go,
    get lassoing() { return lassoing; },
    changed() { order = null; view.draw(); },
    // For tests: where an image is, in the window.
    place(i) {
      const box = canvas.getBoundingClientRect();
      return [view.x(i) + box.left, view.y(i) + box.top];
    },
  };
}
