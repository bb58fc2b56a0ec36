// The images of one drawing: they appear step by step, and a slider goes back and forth through the trajectory.

import { call, follow, isOver, path } from './api.js';
import { copyable, h, picture, Player } from './dom.js';
import { label, number, say } from './text.js';

/** The numbered pictures of a drawing: its `steps`, each with all images side by side, or its `images`. */
export class Pictures {
  #held = new Map();

  constructor(id, kind) {
    this.folder = path('draws', id, kind);
  }

  at(number) {
    if (!this.#held.has(number)) {
      const loading = picture(`${this.folder}/${number}.png`);
      loading.catch(() => this.#held.delete(number)); // not drawn yet, or no longer kept: ask again next time
      this.#held.set(number, loading);
    }
    return this.#held.get(number);
  }
}

/** Draws the image at `index` of `n` in a strip. */
export function paint(canvas, strip, index, n) {
  const width = strip.naturalWidth / n;
  canvas.width = width;
  canvas.height = strip.naturalHeight;
  canvas.getContext('2d').drawImage(strip, width * index, 0, width, canvas.height, 0, 0, width, canvas.height);
}

/** Says in `element` how a drawing stands. Steps are not announced one by one: `element` is silent while they run. */
export function sayState(element, now) {
  element.setAttribute('aria-live', now.state === 'drawing' ? 'off' : 'polite');
  const texts = {
    waiting: () => (now.position > 0 ? say(element, 'waiting', { n: now.position }) : say(element, 'starting')),
    drawing: () => say(element, 'drawing', { step: now.step, steps: now.steps }),
    done: () => say(element, 'done', { n: now.images, steps: now.steps, seconds: number(now.seconds, 3) }),
    failed: () => say(element, 'failed', { error: now.error }),
    cancelled: () => say(element, 'cancelled'),
  };
  texts[now.state]();
}

/** Whether the server has pictures of a drawing: with its first step, also those of the noise. */
export const hasPictures = ({ state, step }) => state === 'done' || (state === 'drawing' && step > 0);

/** One drawing: how it stands, a button that cancels it, and at its end its files and its command. */
class Drawing {
  #end = () => {};

  constructor(empty, range, back) {
    this.status = h('p', { class: 'status', role: 'status', t: empty });
    this.bar = h('progress', { hidden: true, label: 'progress' });
    this.cancel = h('button', { type: 'button', class: 'quiet', t: 'cancel', hidden: true, click: () => this.stop() });
    this.range = h('input', { type: 'range', min: 0, max: 0, value: 0, label: range, input: () => this.moved() });
    this.player = new Player(this.range, back);
    this.place = h('output');
    this.slider = h('div', { class: 'player', hidden: true }, this.player.button, this.range, this.place);
    this.saveAll = h('a', { class: 'button quiet', t: 'download_all', download: true });
    this.command = h('details', {}, h('summary', { t: 'as_command' }));
    this.after = h('div', { class: 'after', hidden: true },
      h('div', { class: 'rest' }, this.saveAll, this.command), h('p', { class: 'hint', t: 'inside' }));
    this.warnings = h('p', { class: 'hint warnings' });
    this.head = h('div', { class: 'head' }, this.status, this.cancel, this.warnings);
  }

  /** Shows the drawing `id` from its present state to its end. */
  start(id) {
    this.#end();
    this.player.stop();
    Object.assign(this, { id, now: null, steps: new Pictures(id, 'steps'), frames: new Pictures(id, 'images') });
    this.slider.hidden = this.after.hidden = true;
    say(this.status, 'starting');
    this.#end = follow(id, (now) => this.update(now), () => {
      this.cancel.hidden = this.bar.hidden = true;
      say(this.status, 'gone');
    });
  }

  stop() {
    call('DELETE', path('draws', this.id)).catch(({ message }) => (this.status.textContent = message));
  }

  update(now) {
    this.now = now;
    sayState(this.status, now);
    this.warnings.textContent = now.warnings.join(' ');
    this.cancel.hidden = isOver(now);
    this.bar.hidden = now.state !== 'drawing';
    this.bar.max = Math.max(now.steps, 1);
    this.bar.value = now.step;
    if (now.state !== 'done') return;
    this.saveAll.href = path('draws', this.id, 'sheet.png');
    this.command.replaceChildren(this.command.firstChild, copyable(now.command));
    this.slider.hidden = this.after.hidden = false;
  }

  /** Says where the slider is. */
  saySlider(key, values) {
    say(this.place, key, values);
    this.range.setAttribute('aria-valuetext', this.place.textContent);
  }
}

/** The images next to each other; the slider goes through the trajectory, and an image can be chosen. */
export class Gallery extends Drawing {
  #painting = false;

  /** `actions` are buttons for the chosen image: the key of their text, and what they do with it. */
  constructor(empty, actions) {
    super(empty, 'trajectory');
    this.sheet = h('div', { class: 'sheet' });
    this.about = h('p', { class: 'chosen' });
    this.save = h('a', { class: 'button quiet', t: 'download', download: true });
    this.after.prepend(this.about, h('div', { class: 'actions' }, ...actions.map(([key, act]) =>
      h('button', { type: 'button', class: 'quiet', t: key, click: () => act(this.chosen()) })), this.save));
    this.element = h('div', { class: 'gallery wide' }, this.head, this.bar, this.sheet, this.slider, this.after);
  }

  start(id) {
    this.following = true;
    this.painted = null;
    this.sheet.setAttribute('aria-busy', 'true');
    super.start(id);
  }

  update(now) {
    if (!this.now || this.sheet.children.length !== now.seeds.length) this.#lay(now.seeds);
    super.update(now);
    if (!hasPictures(now)) return;
    this.slider.hidden = false;
    this.range.max = now.steps;
    this.saveAll.hidden = now.seeds.length < 2;
    if (this.following) {
      this.range.value = now.step;
      this.#show();
    }
  }

  /** A place for each image. */
  #lay(seeds) {
    const tile = (seed, i) => h('button', { type: 'button', class: 'tile', label: ['image_of', { n: i + 1, seed }], click: () => this.choose(i, seed) },
      h('canvas', { width: 1, height: 1 }));
    this.sheet.replaceChildren(...seeds.map(tile));
    const columns = Math.min(Math.ceil(Math.sqrt(seeds.length)), 8);
    this.sheet.style.setProperty('--columns', columns);
    this.sheet.style.setProperty('--rows', Math.ceil(seeds.length / columns));
    this.choose(0, seeds[0]);
  }

  /** The slider cannot go where the drawing has not been; at the newest step, it follows the drawing. */
  moved() {
    const { step } = this.now;
    this.following = Number(this.range.value) >= step;
    if (this.following) this.range.value = step;
    this.#show();
  }

  /** Paints the step of the slider. While a picture is loading, only the newest wish is remembered. */
  async #show() {
    this.saySlider('at_step', { step: this.range.value, steps: this.now.steps });
    if (this.#painting) return;
    this.#painting = true;
    while (this.painted !== `${this.id} ${this.range.value}`) {
      const { id, range: { value } } = this;
      const strip = await this.steps.at(value).catch(() => null);
      if (id !== this.id) continue; // another drawing has begun
      if (!strip) break; // not drawn yet
      const tiles = [...this.sheet.children];
      tiles.forEach((tile, i) => paint(tile.firstChild, strip, i, tiles.length));
      this.painted = `${id} ${value}`;
    }
    this.#painting = false;
    if (isOver(this.now)) this.sheet.removeAttribute('aria-busy');
  }

  choose(index, seed) {
    [...this.sheet.children].forEach((tile, i) => tile.setAttribute('aria-pressed', i === index));
    say(this.about, 'image_of', { n: index + 1, seed });
    this.save.href = path('draws', this.id, 'images', `${index}.png`);
    this.index = index;
  }

  /** The chosen image: its seed, its class if it has one, its file, and the model that drew it. */
  chosen() {
    const { seeds, settings: { class_labels: labels, model } } = this.now;
    return { seed: seeds[this.index], label: labels?.[this.index % labels.length] ?? '', file: this.save.href, model };
  }
}

/** The images between two seeds: one at a time, with an animation that goes to and fro. */
export class Film extends Drawing {
  constructor(empty) {
    super(empty, 'between_two', true);
    this.canvas = h('canvas', { class: 'screen', role: 'img', hidden: true, width: 1, height: 1 });
    this.element = h('div', { class: 'gallery' }, this.head, this.bar, this.canvas, this.slider, this.after);
  }

  update(now) {
    super.update(now);
    if (now.state !== 'done') return;
    this.range.max = now.images - 1;
    this.range.value = 0;
    this.canvas.hidden = false;
    this.moved();
  }

  async moved() {
    const { id, frames, range: { value } } = this;
    const values = { n: Number(value) + 1, all: this.now.images };
    this.saySlider('frame_of', values);
    label(this.canvas, 'frame_of', values);
    const frame = await frames.at(value).catch(() => null);
    if (frame && id === this.id && value === this.range.value) paint(this.canvas, frame, 0, 1);
  }
}
