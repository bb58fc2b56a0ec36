// Watching: the runs of the folder, their curves over each other, and one of them in detail, all of it live.

import { get, listen, path } from './api.js';
import { Chart, smooth } from './chart.js';
import { copyable, h, later } from './dom.js';
import { number, say, t } from './text.js';

/** How many runs have a colour of their own in the curves. */
const COLOURS = 6;
/** Of a longer record, every second point is dropped; the server thins what it sends in the same way. */
const MAX_POINTS = 4000;
/** The figures of eval.json, in its order, with their digits after the point. */
const FIGURES = [['frechet_distance', 2], ['kid', 4], ['precision', 3], ['recall', 3], ['nearest', 2], ['sure', 3]];

export function mount(section, { changed, draw }) {
  const list = h('ul', { class: 'runs' });
  const none = h('p', { class: 'status', t: 'no_runs' });
  const chart = new Chart();
  const option = (value, text = value) => h('option', { value, t: text });
  const quantity = h('select', { input: redraw }, option('loss'), option('lr'), option('grad_norm'));
  const axis = h('select', { input: redraw }, option('step', 'by_step'), option('seconds', 'by_seconds'));
  const log = h('input', { type: 'checkbox', checked: true, input: redraw });
  const smoothing = h('input', { type: 'range', min: 0, max: 0.98, step: 0.02, value: 0.9, input: redraw });
  const named = (text, input) => h('label', { class: 'check' }, h('span', { t: text }), input);
  const controls = h('div', { class: 'tools' }, named('quantity', quantity), named('axis', axis),
    h('label', { class: 'check' }, log, h('span', { t: 'log' })), named('smoothing', smoothing));
  const detail = h('div', { class: 'detail' });
  const curves = h('div', { class: 'curves', role: 'group', label: 'curves' }, controls, chart.element);
  const right = h('div', { class: 'work' }, curves, detail);
  section.append(h('div', { class: 'columns' }, h('div', { class: 'side' }, h('h2', { t: 'runs' }), none, list), right));

  let runs = [];
  const rows = new Map();
  /** The runs in the curves: their records and colours. */
  const shown = new Map();
  let selected = null;
  let view = null;
  let end = null;

  const find = (name) => runs.find((run) => run.name === name);

  function add(name) {
    if (shown.has(name) || shown.size === COLOURS) return;
    const taken = new Set([...shown.values()].map(({ colour }) => colour));
    shown.set(name, { records: [], ready: Promise.resolve(), colour: [0, 1, 2, 3, 4, 5].find((colour) => !taken.has(colour)) });
  }

  /** Listens to the runs that are shown, with one stream: a browser has few connections to a server. */
  function connect() {
    end?.();
    const query = new URLSearchParams({ runs: [...new Set([...shown.keys(), selected])].filter(Boolean).join(',') });
    end = listen(`/api/events?${query}`, '/api/limits', {
      open: () => {
        for (const name of shown.keys()) catchUp(name);
        if (selected) showDetail();
      },
      runs: update,
      records: ({ name, records }) => append(name, records),
      pictures: ({ name, pictures }) => name === selected && view?.pictures(pictures),
    });
  }

  /** Fetches the record so far; what the stream brings meanwhile comes after it. */
  function catchUp(name) {
    const fetched = get(`${path('runs', name, 'metrics')}?from=0`).catch(() => null);
    append(name, fetched.then((answer) => answer?.records ?? []));
  }

  /** Adds records, or a promise of them. A training that was resumed repeats steps: the newer ones are the run's. */
  function append(name, records) {
    const run = shown.get(name);
    if (!run) return;
    run.ready = run.ready.then(async () => {
      const added = await records;
      if (!added.length) return;
      run.records = [...run.records.filter(({ step }) => step < added[0].step), ...added];
      if (run.records.length > MAX_POINTS) run.records = run.records.filter((record, i) => i % 2 || record.validation_loss != null);
      redraw();
    });
  }

  function update(now) {
    runs = now;
    none.hidden = runs.length > 0;
    const isNew = !selected || !find(selected);
    if (isNew && runs.length) {
      selected = (runs.find(({ state }) => state === 'training') ?? runs[0]).name;
      add(selected);
      connect();
    }
    drawList();
    if (selected && find(selected)) view?.state(find(selected));
  }

  /** Brings the list up to date. Rows stay the same elements: a click or the focus is not lost to an update. */
  function drawList() {
    for (const { name } of runs) if (!rows.has(name)) rows.set(name, new Row(name, choose, check));
    const wanted = runs.map(({ name }) => rows.get(name).element);
    if (wanted.length !== list.children.length || wanted.some((element, i) => element !== list.children[i])) {
      list.replaceChildren(...wanted);
    }
    for (const run of runs) rows.get(run.name).update(run, run.name === selected, shown.get(run.name), shown.size === COLOURS);
  }

  function choose(name) {
    selected = name;
    add(name);
    follow();
  }

  function check(name, isChecked) {
    if (isChecked) add(name);
    else shown.delete(name);
    follow();
  }

  function follow() {
    changed(new URLSearchParams({ runs: [...shown.keys()].join(','), run: selected }));
    connect();
    drawList();
    redraw();
  }

  /** Draws the curves again, at most once a frame. */
  let due = 0;
  function redraw() {
    cancelAnimationFrame(due);
    due = requestAnimationFrame(() => {
      const points = (records, key) => records.filter((record) => record[key] != null).map((record) => [record[axis.value], record[key]]);
      const series = [...shown].flatMap(([name, { records, colour }]) => {
        const raw = points(records, quantity.value);
        const all = [{ name, colour, raw, line: smooth(raw, quantity.value === 'lr' ? 0 : smoothing.valueAsNumber), dots: [] }];
        if (quantity.value !== 'loss') return all;
        for (const [key, text] of [['validation_loss', 'validation'], ['ema_validation_loss', 'ema_validation']]) {
          const dots = points(records, key);
          if (dots.length) all.push({ name, text, colour, raw: [], line: [], dots });
        }
        return all;
      });
      chart.draw(series, { log: log.checked, x: axis.value === 'step' ? 'at_x' : 'at_seconds' });
    });
  }

  const showDetail = later(50, async () => {
    const name = selected;
    const run = await get(path('runs', name)).catch(() => null);
    if (!run || name !== selected) return;
    if (view?.name === name) view.refresh(run);
    else {
      view = new Detail(run, draw);
      detail.replaceChildren(view.element);
    }
  });

  return {
    show(params) {
      for (const name of (params.get('runs') ?? '').split(',').filter(Boolean)) add(name);
      selected = params.get('run') || selected;
      if (selected && !shown.size) add(selected);
      connect();
      redraw();
    },
    hide() {
      end?.();
      end = null;
    },
  };
}

/** A run in the list. */
class Row {
  constructor(name, choose, check) {
    this.box = h('input', { type: 'checkbox', label: ['overlay', { name }], change: () => check(name, this.box.checked) });
    this.badge = h('span');
    this.bar = h('progress', { label: 'step_of' });
    this.step = h('span');
    this.loss = h('b');
    this.button = h('button', { type: 'button', class: 'run', click: () => choose(name) }, h('span', { class: 'name' }, name),
      this.badge, this.bar, h('span', { class: 'numbers' }, this.step, this.loss));
    this.element = h('li', {}, this.box, this.button);
  }

  update(run, isSelected, curve, isFull) {
    this.element.className = curve ? `series-${curve.colour}` : '';
    this.box.checked = Boolean(curve);
    this.box.disabled = !curve && isFull;
    this.button.setAttribute('aria-current', isSelected);
    this.badge.className = `badge ${run.state}`;
    say(this.badge, run.state === 'failed' ? 'run_failed' : run.state);
    this.bar.max = Math.max(run.total_steps ?? run.step, 1);
    this.bar.value = run.step;
    this.step.textContent = of(run.step, run.total_steps);
    this.loss.textContent = number(run.loss);
  }
}

/** How many of all; of an unknown number, only how many. */
const of = (now, all) => (all ? `${number(now)} / ${number(all)}` : number(now));

/** One run in detail. */
class Detail {
  constructor(run, draw) {
    this.name = run.name;
    this.files = [];
    this.versions = new Map();
    this.numbers = h('dl', { class: 'facts' });
    this.gallery = h('div', { class: 'pictures' });
    this.figures = h('div', {});
    this.config = h('details', {}, h('summary', { t: 'config' }));
    this.growing = new Growing();
    const use = h('button', { type: 'button', class: 'quiet', t: 'draw_with', click: () => draw(run.name) });
    this.element = h('article', { 'aria-labelledby': 'run-name' },
      h('div', { class: 'head' }, h('h2', { id: 'run-name' }, run.name), use), this.numbers,
      h('h3', { t: 'pictures' }), this.growing.element, this.gallery, h('h3', { t: 'figures' }), this.figures, this.config);
    this.refresh(run);
  }

  refresh(run) {
    this.state(run);
    this.config.replaceChildren(this.config.firstChild, copyable(run.config_toml));
    this.figures.replaceChildren(run.figures ? table(run.figures) : h('p', { class: 'status', t: ['no_figures', { name: run.name }] }));
    this.files = [];
    this.pictures(run.pictures);
  }

  state(run) {
    const facts = [['step_of', of(run.step, run.total_steps)], ['epoch', of(run.epoch, run.epochs)], ['loss', number(run.loss)]];
    if (run.validation_loss != null) facts.push(['validation_loss', number(run.validation_loss)]);
    this.numbers.replaceChildren(...facts.map(([key, value]) => h('div', {}, h('dt', { t: key }), h('dd', {}, value))));
  }

  /** Shows new or changed pictures. The others stay as they are, so that nothing flickers. */
  pictures(names) {
    const stamp = Date.now();
    for (const name of names) {
      this.versions.set(name, stamp);
      if (!this.files.includes(name)) this.files.push(name);
    }
    const url = (name) => `${path('runs', this.name, 'pictures', name)}?v=${this.versions.get(name)}`;
    const epochs = this.files.filter((name) => /^epoch-\d+\./.test(name)).sort();
    this.growing.show(epochs.map((name) => ({ epoch: Number(name.match(/\d+/)[0]), url: url(name) })));
    // The loss is above, as curves.
    const rest = this.files.filter((name) => !epochs.includes(name) && name !== 'loss.png').sort((a, b) => order(a) - order(b));
    const figure = (name) => {
      const old = [...this.gallery.children].find(({ dataset }) => dataset.name === name);
      if (old && !names.includes(name)) return old;
      const image = h('img', { src: url(name), alt: name });
      const made = h('figure', {}, h('a', { href: url(name), target: '_blank' }, image), h('figcaption', {}, name));
      made.dataset.name = name;
      return made;
    };
    this.gallery.replaceChildren(...rest.map(figure));
    if (!rest.length && !epochs.length) this.gallery.replaceChildren(h('p', { class: 'status', t: 'no_pictures' }));
  }
}

/** The samples first; other pictures after them. */
const order = (name) => ['samples.png', 'predictions.png', 'trajectory.png', 'corrupted.png', 'mean.png'].indexOf(name) + 1 || 9;

/** The samples of each epoch, of which a slider shows one; it stays at the newest until it is moved. */
class Growing {
  constructor() {
    this.image = h('img', {});
    this.range = h('input', { type: 'range', min: 0, max: 0, value: 0, label: 'growing', input: () => this.#show() });
    this.caption = h('figcaption', {});
    this.element = h('figure', { class: 'growing', hidden: true }, this.image, h('div', { class: 'player' }, this.range), this.caption);
  }

  show(epochs) {
    const atEnd = this.range.value === this.range.max;
    this.epochs = epochs;
    this.element.hidden = epochs.length === 0;
    if (!epochs.length) return;
    this.range.max = epochs.length - 1;
    if (atEnd) this.range.value = this.range.max;
    this.#show();
  }

  #show() {
    const { epoch, url } = this.epochs[this.range.value];
    if (!this.image.src.endsWith(url)) this.image.src = url;
    this.image.alt = t('after_epoch', { n: epoch });
    say(this.caption, 'after_epoch', { n: epoch });
    this.range.setAttribute('aria-valuetext', this.caption.textContent);
  }
}

/** The figures of the samples next to those of held-out images. */
function table({ samples, held_out: held }) {
  const cell = (figures, [key, digits]) => h('td', {}, figures?.[key]?.toFixed(digits) ?? '–');
  const rows = FIGURES.map((figure) => h('tr', {}, h('th', { scope: 'row', t: figure[0] }), cell(samples, figure), cell(held?.figures, figure)));
  const head = h('tr', {}, h('td'), h('th', { scope: 'col', t: 'samples' }), h('th', { scope: 'col', t: 'held_out' }));
  return h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, head), h('tbody', {}, ...rows)));
}
