// Comparing: the same noise, drawn by several schedulers in several numbers of steps, with the time that each takes.

import { call, follow, path } from './api.js';
import { h, Player } from './dom.js';
import { field, Form, schedulersOf, server } from './form.js';
import { hasPictures, paint, Pictures, sayState } from './gallery.js';
import { label, number, say, t } from './text.js';

/** The schedulers that are chosen at first, if they fit. */
const FIRST = ['DDIMScheduler', 'DPMSolverMultistepScheduler', 'EulerDiscreteScheduler'];
const MAX_COLUMNS = 5;
/** A scheduler's name without its ending; it may be broken between its words. */
const short = (name) => name.replace(/Scheduler$/, '').replace(/([a-z])(?=[A-Z])/g, '$1\u200b');

export function mount(section, { changed }) {
  const steps = field('steps_list', h('input', { type: 'text', inputmode: 'numeric', value: '5, 10, 30', autocomplete: 'off' }),
    { hint: 'steps_list_hint' });
  const columns = () => steps.input.value.split(/[\s,、]+/).filter(Boolean).map(Number);
  steps.problem = () => {
    const { max_steps: max } = server.limits;
    const all = columns();
    const isGood = all.length > 0 && all.length <= MAX_COLUMNS && all.every((n) => Number.isInteger(n) && n >= 1 && n <= max);
    return isGood ? null : t('steps_list_wrong', { max });
  };
  const form = new Form(['model', 'seed', 'batch_size', 'class_label', 'guidance_scale'], { text: 'start_compare', submit: compare, more: [steps], batch: 2 });
  const choice = h('fieldset', { class: 'choice' }, h('legend', { t: 'schedulers' }));
  form.button.before(choice);
  const status = h('p', { class: 'status', role: 'status', t: 'empty_compare' });
  const stop = h('button', { type: 'button', class: 'quiet', t: 'stop', hidden: true, click: () => finish() });
  const table = h('table', { class: 'compared' });
  const range = h('input', { type: 'range', min: 0, max: 20, value: 20, label: 'progress', input: () => cells.forEach(show) });
  const player = new Player(range);
  const place = h('output', {}, '100 %');
  const slider = h('div', { class: 'player', hidden: true }, player.button, range, place);
  section.append(h('div', { class: 'columns' }, form.element,
    h('div', { class: 'gallery' }, h('div', { class: 'head' }, status, stop), h('div', { class: 'scroll' }, table), slider)));
  let cells = [];
  let finish = () => {};
  /** The schedulers of the address, until the model's list is there. */
  let wanted = null;

  const chosen = () => [...choice.querySelectorAll('input:checked')].map(({ value }) => value);
  const params = () => {
    const all = form.params();
    all.set('schedulers', chosen().join(','));
    return all;
  };
  form.element.addEventListener('input', () => changed(params()));

  form.onModel = async (model) => {
    const fitting = await schedulersOf(model.name).catch(() => []);
    if (form.model?.name !== model.name) return;
    const first = wanted ?? fitting.filter((one) => one.is_default || FIRST.includes(one.class_name)).map((one) => one.class_name);
    wanted = null;
    const box = ({ class_name: name }) => {
      const input = h('input', { type: 'checkbox', value: name, name: 'schedulers' });
      input.checked = first.includes(name);
      return h('label', { class: 'check' }, input, short(name));
    };
    choice.replaceChildren(choice.firstChild, ...fitting.map(box));
  };

  async function compare() {
    const names = chosen();
    if (!names.length) return form.fail(new Error(t('choose_one')));
    changed(params());
    const body = form.body();
    delete body.steps_list;
    lay(names, columns());
    slider.hidden = stop.hidden = false;
    form.button.disabled = true;
    let stopped = false;
    let current = null;
    finish = () => {
      stopped = true;
      current?.();
    };
    // One after the other: the times are then those of a scheduler alone.
    let done = 0;
    for (const cell of cells) {
      if (stopped) break;
      say(status, 'compared', { n: done, all: cells.length });
      try {
        const request = { ...body, scheduler: cell.scheduler, num_inference_steps: cell.steps };
        const { id } = await call('POST', '/api/draws', request);
        await new Promise((resolve) => {
          const end = follow(id, (now) => update(cell, now, resolve), resolve);
          current = () => {
            end();
            call('DELETE', path('draws', id)).catch(() => {});
            resolve();
          };
        });
        done += 1;
      } catch (error) {
        // A scheduler may not do what the others can; anything else is wrong for all of them.
        if (!['scheduler', 'num_inference_steps'].includes(error.field)) {
          form.fail(error);
          break;
        }
        cell.time.textContent = error.message;
        cell.time.classList.add('error');
      }
    }
    if (stopped) say(status, 'cancelled');
    else say(status, 'compared', { n: done, all: cells.length });
    stop.hidden = true;
    form.button.disabled = false;
  }

  function lay(names, all) {
    const cell = (scheduler, steps) => {
      const canvas = h('canvas', { width: 1, height: 1, role: 'img' });
      label(canvas, 'columns', { n: steps });
      return { scheduler, steps, canvas, time: h('small', {}), strips: null, now: null };
    };
    const head = h('tr', {}, h('td'), ...all.map((n) => h('th', { scope: 'col', t: ['columns', { n }] })));
    const rows = names.map((name) => all.map((n) => cell(name, n)));
    cells = rows.flat();
    table.replaceChildren(h('thead', {}, head), h('tbody', {}, ...rows.map((row, i) =>
      h('tr', {}, h('th', { scope: 'row' }, short(names[i])),
        ...row.map((one) => h('td', {}, one.canvas, one.time))))));
    table.style.setProperty('--images', form.body().batch_size);
  }

  function update(cell, now, resolve) {
    cell.strips ??= new Pictures(now.id, 'steps');
    cell.now = now;
    if (now.state === 'done') say(cell.time, 'took', { seconds: number(now.seconds, 3) });
    else sayState(cell.time, now);
    show(cell);
    if (['done', 'failed', 'cancelled'].includes(now.state)) resolve();
  }

  /** Paints a cell at the slider's share of its steps. */
  async function show(cell) {
    place.textContent = `${Math.round((100 * range.value) / range.max)} %`;
    range.setAttribute('aria-valuetext', place.textContent);
    const { now, strips, canvas } = cell;
    if (!now || !hasPictures(now)) return;
    const step = Math.min(Math.round((now.steps * range.value) / range.max), now.step);
    cell.step = step;
    const strip = await strips.at(step).catch(() => null);
    if (strip && cell.step === step) paint(canvas, strip, 0, 1);
  }

  return {
    show(params) {
      wanted = params.get('schedulers')?.split(',') ?? null;
      return form.load(params);
    },
  };
}
