// Curves: axes with numbers, a logarithmic scale, and the values at a place that the pointer or the arrow keys choose.

import { h, later, svg } from './dom.js';
import { number, say, t } from './text.js';

const MARGIN = { left: 52, right: 12, top: 10, bottom: 26 };
const HEIGHT = 300;

/** Round numbers within `low..high`, about `count` of them. */
function linearTicks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) ticks.push(i * step);
  return ticks;
}

/** Powers of ten within `low..high`; with few of them, also their doubles and fives, or round numbers. */
function logTicks(low, high) {
  const factors = Math.log10(high / low) > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    ticks.push(...factors.map((factor) => factor * 10 ** power));
  }
  const within = ticks.filter((tick) => tick >= low && tick <= high);
  return within.length > 2 ? within : linearTicks(low, high, 5);
}

/** Exponential smoothing without the pull towards 0 at its beginning. */
export function smooth(points, weight) {
  let [sum, of] = [0, 0];
  return points.map(([x, y]) => {
    sum = weight * sum + (1 - weight) * y;
    of = weight * of + (1 - weight);
    return [x, sum / of];
  });
}

export class Chart {
  #series = [];
  #options = { log: true, x: 'at_x' };

  constructor() {
    this.svg = svg('svg', { 'aria-hidden': 'true' });
    this.values = h('div', { class: 'values' });
    // A slider for the keyboard and for screen readers: its value is a place on the horizontal axis.
    this.plot = h('div', {
      class: 'plot', role: 'slider', tabindex: 0, 'aria-valuenow': 0, label: 'chart',
      pointermove: (event) => this.#point(event), pointerleave: () => this.#at(null),
      keydown: (event) => this.#key(event), blur: () => this.#at(null),
    }, this.svg);
    this.element = h('div', { class: 'chart' }, this.plot, this.values);
    new ResizeObserver(later(50, () => this.#draw())).observe(this.plot);
  }

  /**
   * Draws series: `{ name, text, colour, raw, line, dots }`, lists of points `[x, y]`. `text` is the key of what kind
   * of values they are; `line` is drawn over the pale `raw`, of which it is the smoothed form.
   */
  draw(series, options) {
    this.#series = series;
    this.#options = options;
    this.#draw();
  }

  #draw() {
    const width = this.plot.clientWidth;
    if (!width) return; // the view is hidden
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const { log } = this.#options;
    const good = ([, y]) => Number.isFinite(y) && (!log || y > 0);
    const shown = this.#series.map((one) => ({ ...one, raw: one.raw.filter(good), line: one.line.filter(good), dots: one.dots.filter(good) }));
    const all = shown.flatMap(({ raw, dots }) => [...raw, ...dots]);
    if (!all.length) {
      this.scale = null;
      const text = svg('text', { x: width / 2, y: HEIGHT / 2, 'text-anchor': 'middle', 'data-t': 'no_records' });
      text.textContent = t('no_records');
      this.svg.replaceChildren(text);
      this.values.replaceChildren();
      return;
    }
    const bounds = (list) => list.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    const [left, right] = bounds(all.map(([x]) => x));
    let [low, high] = bounds(all.map(([, y]) => y));
    if (low === high) [low, high] = [low * 0.9 - 1e-9, high * 1.1 + 1e-9];
    const of = log ? Math.log : (y) => y;
    if (log && low <= 0) low = high / 10;
    const x = (value) => MARGIN.left + ((value - left) / (right - left || 1)) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => MARGIN.top + ((of(high) - of(value)) / (of(high) - of(low))) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.scale = { x, y, left, right, width };
    const grid = (log ? logTicks(low, high) : linearTicks(low, high, 5)).map((tick) => svg('g', {},
      svg('line', { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
      text(number(tick), { x: MARGIN.left - 8, y: y(tick) + 4, 'text-anchor': 'end' })));
    const below = linearTicks(left, right, Math.max(2, width / 130)).map((tick) =>
      text(number(tick), { x: x(tick), y: HEIGHT - 6, 'text-anchor': 'middle' }));
    const path = (points) => points.map(([a, b], i) => `${i ? 'L' : 'M'}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join('');
    const curves = shown.map(({ colour, raw, line, dots }) => svg('g', { class: `series series-${colour}` },
      svg('path', { class: 'raw', d: path(raw) }), svg('path', { class: 'line', d: path(line) }),
      svg('path', { class: 'between-dots', d: path(dots) }),
      ...dots.map(([a, b]) => svg('circle', { cx: x(a), cy: y(b), r: 3 }))));
    this.cross = svg('line', { class: 'cross', y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: 'hidden' });
    this.svg.replaceChildren(svg('g', { class: 'grid' }, ...grid, ...below), ...curves, this.cross);
    this.plot.setAttribute('aria-valuemin', left);
    this.plot.setAttribute('aria-valuemax', right);
    this.#at(this.place ?? null);
  }

  #point(event) {
    if (!this.scale) return;
    const { left, right, width } = this.scale;
    const share = (event.clientX - this.plot.getBoundingClientRect().left - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    this.#at(left + Math.min(Math.max(share, 0), 1) * (right - left));
  }

  #key(event) {
    if (!this.scale) return;
    const { left, right } = this.scale;
    const by = (right - left) / (event.shiftKey ? 10 : 100);
    const at = this.place ?? right;
    const to = { ArrowLeft: at - by, ArrowRight: at + by, Home: left, End: right }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#at(Math.min(Math.max(to, left), right));
  }

  /** Shows the values at `place`; the last ones for `null`. */
  #at(place) {
    this.place = place;
    if (!this.scale) return;
    const { x, right } = this.scale;
    const at = place ?? right;
    this.cross.setAttribute('visibility', place === null ? 'hidden' : 'visible');
    this.cross.setAttribute('x1', x(at));
    this.cross.setAttribute('x2', x(at));
    const rows = this.#series.flatMap(({ name, text: kind, colour, line, dots }) => {
      const value = nearest(line.length ? line : dots, at);
      if (!value) return [];
      const what = h('span', {}, name);
      if (kind) what.append(' · ', h('span', { t: kind }));
      return [h('span', { class: `value series-${colour}${line.length ? '' : ' dashed'}` }, h('i'), what, h('b', {}, number(value[1])))];
    });
    const where = h('span', { class: 'where' });
    say(where, this.#options.x, { x: number(Math.round(at)) });
    this.values.replaceChildren(where, ...rows);
    this.plot.setAttribute('aria-valuenow', Math.round(at));
    this.plot.setAttribute('aria-valuetext', [...this.values.children].map(({ textContent }) => textContent).join(', '));
  }
}

function text(words, attributes) {
  const element = svg('text', attributes);
  element.textContent = words;
  return element;
}

/** The point that is nearest to `at`, of points in the order of x. */
function nearest(points, at) {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= at) low = middle;
    else high = middle;
  }
  const [a, b] = [points[low], points[high]];
  return a && Math.abs(a[0] - at) <= Math.abs(b[0] - at) ? a : b;
}
