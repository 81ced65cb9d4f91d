// The images in the plane: drag to move, wheel or pinch to zoom, lasso to select.

export function map(canvas, { points, groupOf, colour, listed, selected, hover, select, open, says }) {
  const context = canvas.getContext("2d");
  const count = points.length / 2;
  let width = 1, height = 1, scale = 1, whole = 1, x0 = 0.5, y0 = 0.5, waiting = 0;
  let current = -1, lassoing = false, path = null, circle = 0, order = null;

  const screenX = (i) => (points[2 * i] - x0) * scale + width / 2;
  const screenY = (i) => (y0 - points[2 * i + 1]) * scale + height / 2;

  function fit() {
    whole = scale = Math.min(width, height) * 0.92;
    x0 = y0 = 0.5;
  }
  function resize() {
    const box = canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const ratio = devicePixelRatio || 1, first = width === 1, zoomed = scale / whole;
    width = box.width; height = box.height;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (first || zoomed === 1) fit();
    paint();
  }
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
  function paint() {
    waiting = 0;
    if (width === 1) return;
    const rows = ordered(), groups = groupOf(), inList = listed(), chosen = selected();
    context.clearRect(0, 0, width, height);
    const size = Math.max(1.6, Math.min(7, Math.sqrt(width * height / count) * 0.35 * Math.sqrt(scale / whole)));
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
      context.arc(screenX(current), screenY(current), Math.max(9, circle * scale), 0, 7);
      context.stroke();
    }
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
  function draw() {
    waiting ||= requestAnimationFrame(paint);
  }
  function nearest(x, y, reach = 14) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < count; i++) {
      const dx = screenX(i) - x, dy = screenY(i) - y, d = dx * dx + dy * dy;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  function inside() {
    const found = [];
    for (let i = 0; i < count; i++) {
      const x = screenX(i), y = screenY(i);
      let odd = false;
      for (let k = 0, j = path.length - 1; k < path.length; j = k++) {
        const [ax, ay] = path[k], [bx, by] = path[j];
        if ((ay > y) !== (by > y) && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
      }
      if (odd) found.push(i);
    }
    return found;
  }
  function zoom(factor, x = width / 2, y = height / 2) {
    const goal = Math.max(whole * 0.7, Math.min(whole * 400, scale * factor));
    x0 += (x - width / 2) * (1 / scale - 1 / goal);
    y0 -= (y - height / 2) * (1 / scale - 1 / goal);
    scale = goal;
    hover(-1);
    draw();
  }
  const middle = () => (current < 0 ? [width / 2, height / 2] : [screenX(current), screenY(current)]);
  function go(place) {
    current = place;
    circle = 0;
    if (place >= 0) {
      const x = screenX(place), y = screenY(place);
      if (x < 20 || x > width - 20) x0 = points[2 * place];
      if (y < 20 || y > height - 20) y0 = points[2 * place + 1];
      says(place);
    }
    draw();
  }
  function step(right, down) {
    if (current < 0) { go(nearest(width / 2, height / 2, Infinity)); return; }
    const x = screenX(current), y = screenY(current);
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      const along = (screenX(i) - x) * right + (screenY(i) - y) * down;
      const aside = Math.abs((screenX(i) - x) * down) + Math.abs((screenY(i) - y) * right);
      if (along < 4 || aside > along) continue;
      if (along + 2 * aside < least) { least = along + 2 * aside; best = i; }
    }
    if (best >= 0) go(best);
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
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (way) step(...way);
    else if (event.key === " ") { if (current >= 0) select([current], true); }
    else if (event.key === "g" || event.key === "G") grow();
    else if (event.key === "Enter") { if (current >= 0) open(current); }
    else if (event.key === "+" || event.key === "=") zoom(1.5, ...middle());
    else if (event.key === "-") zoom(1 / 1.5, ...middle());
    else if (event.key === "0") { fit(); draw(); }
    else return false;
    event.preventDefault();
    return true;
  }
  function setLasso(on) {
    lassoing = on;
    canvas.classList.toggle("drawing", on);
  }

  const here = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const pointers = new Map();
  let moved = 0, apart = 0;
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, here(event));
    canvas.setPointerCapture(event.pointerId);
    moved = apart = 0;
    path = (lassoing || event.shiftKey) && pointers.size === 1 ? [here(event)] : null;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = here(event), before = pointers.get(event.pointerId);
    if (!before) { hover(nearest(x, y), event.clientX, event.clientY); return; }
    if (pointers.size === 1) {
      moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
      if (path) path.push([x, y]);
      else { x0 -= (x - before[0]) / scale; y0 += (y - before[1]) / scale; }
      if (moved > 4) hover(-1);
      draw();
    }
    pointers.set(event.pointerId, [x, y]);
    if (pointers.size === 2) {
      path = null;
      const [a, b] = [...pointers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (apart) zoom(now / apart, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      apart = now; moved = 99;
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const [x, y] = here(event);
    pointers.delete(event.pointerId);
    const drawn = path;
    if (drawn && moved > 8) {
      const found = inside();
      path = null;
      draw();
      select(found, event.ctrlKey || event.metaKey);
      return;
    }
    path = null;
    if (moved > 4) return;
    const found = nearest(x, y, event.pointerType === "touch" ? 28 : 14);
    go(found);
    if (found >= 0) select([found], event.ctrlKey || event.metaKey || event.pointerType === "touch");
    if (found >= 0 && event.pointerType === "touch") hover(found, event.clientX, event.clientY);
  });
  canvas.addEventListener("pointercancel", (event) => { pointers.delete(event.pointerId); path = null; draw(); });
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hover(-1); });
  canvas.addEventListener("dblclick", (event) => { const found = nearest(...here(event)); if (found >= 0) open(found); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...here(event));
  }, { passive: false });
  new ResizeObserver(resize).observe(canvas);

  return {
    draw, key, setLasso, zoom,
    get lassoing() { return lassoing; },
    whole() { fit(); draw(); },
    changed() { order = null; draw(); },
    go,
    // For tests: where an image is, in the window.
    place(i) {
      const box = canvas.getBoundingClientRect();
      return [screenX(i) + box.left, screenY(i) + box.top];
    },
  };
}
