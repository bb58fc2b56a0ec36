// A picture on which a mask is painted: with mouse, finger or pen, or by keyboard.

import { h } from './dom.js';
import { say } from './text.js';

/** How many strokes can be undone. */
const UNDO = 50;

export class Mask {
  #before = [];
  #last = null;

  /** `changed` is called after each change of the mask. */
  constructor(changed) {
    this.changed = changed;
    this.picture = h('canvas', { width: 1, height: 1 });
    this.overlay = h('canvas', { width: 1, height: 1, class: 'overlay' });
    this.ring = h('div', { class: 'ring' });
    this.state = h('p', { class: 'hint', role: 'status' });
    const keys = h('p', { class: 'hint', id: 'mask-keys', t: 'mask_keys' });
    this.board = h('div', {
      class: 'board', tabindex: 0, role: 'application', label: 'mask_is', 'aria-describedby': 'mask-keys',
      pointerdown: (event) => this.#down(event), pointermove: (event) => this.#move(event),
      pointerup: () => this.#up(), pointercancel: () => this.#up(), keydown: (event) => this.#key(event),
    }, this.picture, this.overlay, this.ring);
    this.size = h('input', { type: 'range', min: 1, max: 12, value: 4, id: 'brush', input: () => this.#ring() });
    this.erase = h('input', { type: 'checkbox' });
    const button = (key, act) => h('button', { type: 'button', class: 'quiet', t: key, click: () => act() });
    const tools = h('div', { class: 'tools' },
      h('label', { for: 'brush', t: 'brush' }), this.size,
      h('label', { class: 'check' }, this.erase, h('span', { t: 'erase' })),
      button('undo', () => this.undo()), button('invert', () => this.#change((value) => 1 - value)),
      button('clear', () => this.#change(() => 0)));
    this.element = h('div', { class: 'mask' }, this.board, tools, this.state, keys);
  }

  /** Shows a picture (anything that a canvas can draw) of this size, without a mask. */
  load(source, width, height) {
    for (const canvas of [this.picture, this.overlay]) Object.assign(canvas, { width, height });
    this.picture.getContext('2d').drawImage(source, 0, 0, width, height);
    Object.assign(this, { width, height, values: new Uint8Array(width * height), x: width >> 1, y: height >> 1 });
    this.board.style.setProperty('aspect-ratio', `${width} / ${height}`);
    this.size.max = Math.max(6, Math.ceil(Math.min(width, height) / 2));
    this.size.value = Math.max(2, Math.round(Math.min(width, height) / 6));
    this.#before = [];
    this.#draw();
  }

  get isEmpty() {
    return !this.values?.includes(1);
  }

  /** The mask as a PNG in base64: white is redrawn. */
  png() {
    const canvas = h('canvas', { width: this.width, height: this.height });
    const data = new ImageData(this.width, this.height);
    this.values.forEach((value, i) => data.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
    canvas.getContext('2d').putImageData(data, 0, 0);
    return canvas.toDataURL('image/png').split(',')[1];
  }

  undo() {
    if (!this.#before.length) return;
    this.values = this.#before.pop();
    this.#draw();
  }

  #remember() {
    this.#before.push(this.values.slice());
    if (this.#before.length > UNDO) this.#before.shift();
  }

  #change(to) {
    if (!this.values) return;
    this.#remember();
    this.values = this.values.map(to);
    this.#draw();
  }

  /** Where a pointer is, in the picture's pixels. */
  #place({ clientX, clientY }) {
    const box = this.overlay.getBoundingClientRect();
    return { x: ((clientX - box.left) / box.width) * this.width, y: ((clientY - box.top) / box.height) * this.height };
  }

  #down(event) {
    if (event.button !== 0 || !this.values) return;
    this.board.setPointerCapture(event.pointerId);
    this.#remember();
    this.#last = this.#place(event);
    this.#stroke(this.#last);
  }

  #move(event) {
    if (!this.values) return;
    if (this.#last) for (const one of event.getCoalescedEvents?.() ?? [event]) this.#stroke(this.#place(one));
    Object.assign(this, this.#place(event));
    this.#ring();
  }

  #up() {
    this.#last = null;
  }

  #key(event) {
    const by = event.shiftKey ? 4 : 1;
    const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
    if (!this.values || event.altKey) return;
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      this.x = Math.min(Math.max(Math.floor(this.x) + dx, 0), this.width - 1) + 0.5;
      this.y = Math.min(Math.max(Math.floor(this.y) + dy, 0), this.height - 1) + 0.5;
      this.#ring();
      this.#say();
    } else if (event.key === ' ') {
      this.#remember();
      this.#last = null;
      this.#stroke({ x: this.x, y: this.y });
      this.#last = null;
    } else if (event.key === '[' || event.key === ']') {
      this.size.valueAsNumber += event.key === ']' ? 1 : -1;
      this.#ring();
    } else if (event.key.toLowerCase() === 'z') this.undo();
    else return;
    event.preventDefault();
  }

  /** Paints from the last place of the pointer to this one. */
  #stroke(to) {
    const from = this.#last ?? to;
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) * 2));
    for (let i = 0; i <= steps; i += 1) {
      this.#dab(from.x + ((to.x - from.x) * i) / steps, from.y + ((to.y - from.y) * i) / steps);
    }
    this.#last = to;
    Object.assign(this, to);
    this.#draw();
  }

  /** Sets the pixels whose centres are under the brush, and the one that the point is in. */
  #dab(x, y) {
    const radius = this.size.valueAsNumber / 2;
    const value = this.erase.checked ? 0 : 1;
    const { width, height } = this;
    for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(height - 1, y + radius); row += 1) {
      for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, x + radius); column += 1) {
        const isUnder = Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius;
        const isAt = Math.floor(x) === column && Math.floor(y) === row;
        if (isUnder || isAt) this.values[row * width + column] = value;
      }
    }
  }

  #draw() {
    const data = new ImageData(this.width, this.height);
    this.values.forEach((value, i) => value && data.data.set([64, 156, 255, 165], 4 * i));
    this.overlay.getContext('2d').putImageData(data, 0, 0);
    this.#ring();
    this.#say();
    this.changed();
  }

  #ring() {
    const { style } = this.ring;
    const d = this.size.valueAsNumber;
    style.setProperty('width', `${(100 * d) / this.width}%`);
    style.setProperty('height', `${(100 * d) / this.height}%`);
    style.setProperty('left', `${(100 * (this.x - d / 2)) / this.width}%`);
    style.setProperty('top', `${(100 * (this.y - d / 2)) / this.height}%`);
  }

  #say() {
    const at = (place, size) => Math.min(Math.max(Math.floor(place), 0), size - 1);
    const share = Math.round((100 * this.values.reduce((sum, value) => sum + value, 0)) / this.values.length);
    say(this.state, 'mask_state', { share, x: at(this.x, this.width), y: at(this.y, this.height) });
  }
}
