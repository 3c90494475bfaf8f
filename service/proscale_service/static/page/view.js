// The canvas: the picture, its masks from a map of segment numbers, zoom and pan.
import { colourOf } from "./colours.js";

const MOST = 2048; // pixels of the longer side of what is painted; a larger picture is shown through a coarser grid
const WORKER = new URL("worker.js", import.meta.url);

export class View {
  constructor(stage, onHover) {
    this.stage = stage;
    this.canvas = stage.querySelector("canvas");
    this.onHover = onHover;
    this.worker = new Worker(WORKER, { type: "module" });
    this.worker.onmessage = ({ data }) => {
      if (data.turn !== this.turn) return; // of a picture or filter that is no longer shown
      this.map = data.map;
      this.paint();
    };
    this.turn = 0;
    this.highlight = 0;
    this.opacity = 0.45;
    this.outlines = true;
    this.fit();
    this.listen();
    new ResizeObserver(() => this.draw()).observe(stage);
  }

  /** Show a picture (an ImageBitmap of at most MOST pixels a side) without masks. */
  setPicture(bitmap) {
    this.bitmap = bitmap;
    this.stage.style.setProperty("--shape", bitmap.width / bitmap.height);
    this.segments = [];
    this.map = null;
    this.layer = null;
    this.turn += 1;
    this.fit();
  }

  setSegments(segments, visible) {
    this.segments = segments;
    const { height, width } = this.bitmap;
    this.worker.postMessage({ kind: "load", turn: ++this.turn, height, width, segments, visible });
  }

  setVisible(visible) {
    this.worker.postMessage({ kind: "paint", turn: ++this.turn, visible });
  }

  set(options) {
    Object.assign(this, options);
    this.paint();
  }

  /** Colours of the map, as a layer to lay over the picture. */
  paint() {
    if (!this.map || !this.bitmap) return this.draw();
    const { height, width } = this.bitmap;
    const pixels = new ImageData(width, height);
    const colours = new Uint32Array(pixels.data.buffer);
    const table = new Uint32Array(this.segments.length + 1);
    const alpha = (share) => Math.round(255 * share) << 24;
    this.segments.forEach((segment, index) => {
      const [red, green, blue] = colourOf(segment);
      const share = index + 1 === this.highlight ? Math.min(1, this.opacity + 0.35) : this.opacity;
      table[index + 1] = (alpha(share) | (blue << 16) | (green << 8) | red) >>> 0;
    });
    const white = 0xd0ffffff;
    const map = this.map;
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const number = map[at];
        if (!number) continue;
        const edge = this.outlines && ((x && map[at - 1] !== number) || (y && map[at - width] !== number));
        colours[at] = edge ? white : table[number];
      }
    }
    this.layer ??= new OffscreenCanvas(width, height);
    this.layer.getContext("2d").putImageData(pixels, 0, 0);
    this.draw();
  }

  draw() {
    const { canvas, stage } = this;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(stage.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(stage.clientHeight * ratio));
    // A picture that is seen whole leaves swipes to the page, so that a phone can scroll past it.
    stage.style.touchAction = this.zoom > 1 ? "none" : "pan-y";
    if (!this.bitmap) return;
    const { scale, left, top } = this.placed();
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = scale < 2;
    context.setTransform(scale, 0, 0, scale, left, top);
    context.drawImage(this.bitmap, 0, 0);
    if (this.layer) context.drawImage(this.layer, 0, 0);
  }

  placed() {
    const { width, height } = this.canvas;
    const scale = Math.min(width / this.bitmap.width, height / this.bitmap.height) * this.zoom;
    return {
      scale,
      left: width / 2 - this.bitmap.width * scale * (0.5 + this.x),
      top: height / 2 - this.bitmap.height * scale * (0.5 + this.y),
    };
  }

  fit() {
    [this.zoom, this.x, this.y] = [1, 0, 0];
    this.draw();
  }

  /** Args: at: a place of the canvas that stays where it is, [x, y]; left out: its middle. */
  zoomBy(factor, at = null) {
    const zoom = Math.min(40, Math.max(1, this.zoom * factor));
    const before = this.bitmap && at ? this.placed() : null;
    this.zoom = zoom;
    if (zoom === 1) [this.x, this.y] = [0, 0];
    else if (before) {
      const { scale } = this.placed();
      const stays = (place, edge, length, size) => (length / 2 - place + ((place - edge) / before.scale) * scale) / (size * scale) - 0.5;
      this.x = clamp(stays(at[0], before.left, this.canvas.width, this.bitmap.width));
      this.y = clamp(stays(at[1], before.top, this.canvas.height, this.bitmap.height));
    }
    this.draw();
  }

  /** Show what lies further right and below. Args: pixels of the canvas. */
  moveBy(x, y) {
    if (this.zoom === 1 || !this.bitmap) return;
    const { scale } = this.placed();
    this.x = clamp(this.x + x / (this.bitmap.width * scale));
    this.y = clamp(this.y + y / (this.bitmap.height * scale));
    this.draw();
  }

  /** Where a pointer is, in pixels of the canvas. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  /** Index of the segment under a pointer, -1 for none. */
  at(event) {
    if (!this.map) return -1;
    const { scale, left, top } = this.placed();
    const [across, down] = this.place(event);
    const x = Math.floor((across - left) / scale);
    const y = Math.floor((down - top) / scale);
    const inside = x >= 0 && y >= 0 && x < this.bitmap.width && y < this.bitmap.height;
    return inside ? this.map[y * this.bitmap.width + x] - 1 : -1;
  }

  listen() {
    const { stage } = this;
    const held = new Map(); // the place of every finger or pressed pointer
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), this.place(event));
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      held.set(event.pointerId, this.place(event));
      stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      const from = held.get(event.pointerId);
      if (from) {
        const to = this.place(event);
        held.set(event.pointerId, to);
        if (held.size === 1) this.moveBy(from[0] - to[0], from[1] - to[1]);
        else this.pinch(from, to, [...held.values()].find((place) => place !== to));
      }
      this.onHover(this.at(event), event);
    });
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => held.delete(event.pointerId));
    stage.addEventListener("pointerleave", () => this.onHover(-1));
    stage.addEventListener("keydown", (event) => {
      const { width, height } = this.canvas;
      const moves = { ArrowLeft: [-width, 0], ArrowRight: [width, 0], ArrowUp: [0, -height], ArrowDown: [0, height] };
      if (moves[event.key] && this.zoom > 1) this.moveBy(...moves[event.key].map((length) => length / 10));
      else if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
      else if (event.key === "-") this.zoomBy(0.8);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    });
  }

  /** One of two fingers moved: what lay between them stays between them. */
  pinch(from, to, other) {
    const apart = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
    this.zoomBy(apart(to, other) / apart(from, other), [(to[0] + other[0]) / 2, (to[1] + other[1]) / 2]);
  }
}

const clamp = (value) => Math.min(0.5, Math.max(-0.5, value));

/** A picture for the canvas: decoded by the browser, turned by its EXIF orientation, at most MOST pixels a side. */
export async function toBitmap(blob) {
  const whole = await createImageBitmap(blob);
  const shrink = Math.min(1, MOST / Math.max(whole.width, whole.height));
  if (shrink === 1) return whole;
  const small = await createImageBitmap(whole, {
    resizeWidth: Math.max(1, Math.round(whole.width * shrink)),
    resizeHeight: Math.max(1, Math.round(whole.height * shrink)),
    resizeQuality: "medium",
  });
  whole.close();
  return small;
}
