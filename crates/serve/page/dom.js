// Small helpers for elements. Styles are set through the DOM: the page's policy allows no style in the markup.

import { label, say } from './text.js';

/**
 * Makes an element. `t` names its text and `label` its accessible name (a key of text.js, or a key and its values);
 * a function listens to the event that it is named by.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 't') say(element, ...[value].flat());
    else if (name === 'label') label(element, ...[value].flat());
    else if (typeof value === 'function') element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Makes an element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Waits until `action` has not been called for `ms`, then does it. */
export function later(ms, action) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), ms);
  };
}

/** A picture, decoded. */
export async function picture(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

/** A file's bytes in base64. */
export function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(',')[1]);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Copies the text of `element`; where the browser refuses (a page without TLS), it is left selected for Ctrl+C. */
async function copy(element, button) {
  const done = (key) => {
    say(button, key);
    setTimeout(() => say(button, 'copy'), 2500);
  };
  try {
    await navigator.clipboard.writeText(element.textContent);
    done('copied');
  } catch {
    getSelection().selectAllChildren(element);
    done(document.execCommand('copy') ? 'copied' : 'copy_by_key');
  }
}

/** A command or a configuration with a button that copies it. */
export function copyable(text) {
  const code = h('code', {}, text);
  const button = h('button', { type: 'button', class: 'quiet', t: 'copy', click: () => copy(code, button) });
  return h('div', { class: 'copyable' }, h('pre', { tabindex: 0 }, code), button);
}

/** Plays a slider from its present place to its end, or with `back` to and fro. */
export class Player {
  #timer;

  constructor(range, back = false) {
    this.range = range;
    this.back = back;
    this.button = h('button', { type: 'button', class: 'round', label: 'play', click: () => this.toggle() }, '▶');
  }

  toggle() {
    if (this.#timer) return this.stop();
    const { range } = this;
    const last = Number(range.max);
    // At most 40 pictures in about two seconds; a reader who asked for less motion gets them slower.
    const stride = Math.max(1, Math.round(last / 40));
    const pause = matchMedia('(prefers-reduced-motion: reduce)').matches ? 250 : Math.max(50, 2000 / (last / stride));
    let step = stride;
    if (Number(range.value) >= last && !this.back) range.value = 0;
    if (Number(range.value) >= last) step = -stride;
    this.button.textContent = '❚❚';
    label(this.button, 'pause');
    this.#timer = setInterval(() => {
      const next = Number(range.value) + step;
      range.value = Math.min(Math.max(next, 0), last);
      range.dispatchEvent(new Event('input'));
      if (next <= 0 || next >= last) {
        if (!this.back) return this.stop();
        step = -step;
      }
    }, pause);
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.button.textContent = '▶';
    label(this.button, 'play');
  }
}
