// The settings of a drawing: fields that fit the chosen model, their values, and errors next to the field they belong to.

import { call, get, path } from './api.js';
import { h } from './dom.js';
import { hush, say, t } from './text.js';

/** What the server allows, set by page.js before any form is made, and its models. */
export const server = { limits: {}, models: [] };

export async function loadModels() {
  server.models = await get('/api/models');
}

/** The largest seed that a number of JavaScript holds exactly. */
const MAX_SEED = Number.MAX_SAFE_INTEGER;

const schedulers = new Map();
/** The schedulers that fit a model. */
export function schedulersOf(model) {
  if (!schedulers.has(model)) {
    const asked = get(path('models', model, 'schedulers'));
    asked.catch(() => schedulers.delete(model));
    schedulers.set(model, asked);
  }
  return schedulers.get(model);
}

/** A random seed, short enough to be read aloud. */
export const dice = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

let count = 0;

/** A labelled field with room for a hint and an error. */
export function field(name, input, { text = name, hint, beside } = {}) {
  const id = `field-${(count += 1)}`;
  input.id = id;
  input.name = name;
  const error = h('p', { class: 'error', id: `${id}-error` });
  const hints = hint && h('p', { class: 'hint', id: `${id}-hint` });
  if (hint) say(hints, hint);
  input.setAttribute('aria-describedby', `${id}-error${hint ? ` ${id}-hint` : ''}`);
  const row = beside ? h('div', { class: 'beside' }, input, beside) : input;
  const element = h('div', { class: 'field' }, h('label', { for: id, t: text }), row, hints, error);
  const fail = (message) => {
    error.textContent = message;
    input.setAttribute('aria-invalid', 'true');
    input.closest('details')?.setAttribute('open', '');
    input.focus();
  };
  const clear = () => {
    hush(error);
    input.removeAttribute('aria-invalid');
  };
  input.addEventListener('input', clear);
  return { name, input, element, fail, clear, hint: hints };
}

/** A field for a number; the form checks its bounds. */
export function numberField(name, { min, max, step = 1, value, ...rest }) {
  const input = h('input', { type: 'number', inputmode: step === 1 ? 'numeric' : 'decimal', min, max, step: step === 1 ? 1 : 'any' });
  if (value !== undefined) input.value = value;
  const made = field(name, input, rest);
  made.value = () => {
    if (input.value === '' && !input.validity.badInput) return null;
    return input.valueAsNumber;
  };
  /** What is wrong with the value, as a text. */
  made.problem = () => {
    const number = made.value();
    if (number === null) return rest.optional ? null : t('needed');
    if (Number.isNaN(number)) return t('needed');
    if (step === 1 && !Number.isInteger(number)) return t('whole');
    if (number < min || number > max) return t('between', { min, max });
    return null;
  };
  return made;
}

/** A slider that shows its value. */
export function sliderField(name, { min, max, step, value, ...rest }) {
  const input = h('input', { type: 'range', min, max, step, value });
  const shown = h('output', {}, String(value));
  const made = field(name, input, { ...rest, beside: shown });
  made.value = () => input.valueAsNumber;
  made.show = () => (shown.textContent = input.value);
  input.addEventListener('input', made.show);
  return made;
}

export function seedField(name, text = name, hint = undefined) {
  const roll = () => {
    made.input.value = dice();
    made.input.dispatchEvent(new Event('input', { bubbles: true }));
  };
  const button = h('button', { type: 'button', class: 'round', label: 'dice', click: roll }, '⚄');
  const made = numberField(name, { min: 0, max: MAX_SEED, value: 0, text, hint, beside: button });
  return made;
}

export class Form {
  /** `names` are the settings that this form has, in order; `more` are fields of its own, put after them. */
  constructor(names, { submit, text, more = [], batch = 16 }) {
    this.fields = new Map();
    const { limits } = server;
    const make = {
      model: () => this.#model(),
      batch_size: () => numberField('batch_size', { min: 1, max: limits.max_images, value: Math.min(batch, limits.max_images) }),
      num_inference_steps: () => numberField('num_inference_steps', { min: 1, max: limits.max_steps, optional: true }),
      seed: () => seedField('seed', 'seed', names.includes('batch_size') ? 'seed_hint' : undefined),
      scheduler: () => field('scheduler', h('select')),
      class_label: () => field('class_label', h('select')),
      guidance_scale: () => numberField('guidance_scale', { min: 0, max: 100, step: 0.1, optional: true }),
      eta: () => numberField('eta', { min: 0, max: 1, step: 0.1, optional: true }),
      guide: () => field('guide', h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false' }), { hint: 'guide_hint' }),
    };
    const made = [...names.map((name) => make[name]()), ...more];
    for (const one of made) this.fields.set(one.name, one);
    this.error = h('p', { class: 'error', role: 'alert' });
    this.button = h('button', { class: 'main', t: text });
    const rare = made.filter(({ name }) => name === 'guide').map(({ element }) => element);
    const elements = made.map(({ element }) => element).filter((element) => !rare.includes(element));
    this.element = h('form', { class: 'settings', novalidate: true, label: 'settings', submit: (event) => {
      event.preventDefault();
      if (this.#check()) submit();
    } }, ...elements, rare.length ? h('details', {}, h('summary', { t: 'more' }), ...rare) : null, this.button, this.error);
    this.element.addEventListener('input', () => hush(this.error));
    this.fields.get('scheduler')?.input.addEventListener('input', () => {
      const eta = this.fields.get('eta');
      if (eta) eta.element.hidden = !this.scheduler?.takes_eta;
    });
    this.onModel = () => {};
  }

  get model() {
    return server.models.find(({ name }) => name === this.fields.get('model').input.value);
  }

  #model() {
    const made = field('model', h('select'));
    made.hint = h('p', { class: 'hint' });
    made.element.append(made.hint);
    made.input.addEventListener('input', () => this.fit());
    return made;
  }

  /** Makes the fields fit the chosen model; `wanted` are values to restore. */
  async fit(wanted = {}) {
    const { model } = this;
    if (!model) return say(this.error, 'no_models');
    const about = h('span', { t: ['model_about', { ...model, classes: undefined }] });
    this.fields.get('model').hint.replaceChildren(about, ...(model.unfinished ? [' · ', h('span', { t: 'unfinished' })] : []));
    const set = (name, value, isShown = true) => {
      const one = this.fields.get(name);
      if (!one) return;
      one.input.value = value ?? '';
      if (one.input.selectedIndex === -1) one.input.value = ''; // no longer one of the choices
      one.element.hidden = !isShown;
    };
    const hasClasses = model.classes.length > 0;
    const classes = model.classes.map(({ id, label }) => h('option', { value: id }, label));
    this.fields.get('class_label')?.input.replaceChildren(h('option', { value: '', t: 'in_turn' }), ...classes);
    set('class_label', wanted.class_label, hasClasses);
    set('guidance_scale', wanted.guidance_scale ?? model.guidance_scale, hasClasses);
    set('num_inference_steps', wanted.num_inference_steps ?? model.steps);
    this.onModel(model);
    if (!this.fields.has('scheduler')) return;
    try {
      this.fitting = await schedulersOf(model.name);
      if (this.model?.name !== model.name) return; // another one was chosen meanwhile
      const option = ({ class_name: name, is_default: own }) =>
        own ? h('option', { value: '', t: ['own_scheduler', { name }] }) : h('option', { value: name }, name);
      const options = this.fitting.map(option).sort((a, b) => (b.value === '') - (a.value === ''));
      this.fields.get('scheduler').input.replaceChildren(...options);
      set('scheduler', wanted.scheduler ?? model.sample_scheduler);
      set('eta', wanted.eta ?? model.eta, this.scheduler?.takes_eta);
    } catch (error) {
      this.fail(error);
    }
  }

  /** The scheduler as the server lists it. */
  get scheduler() {
    const chosen = this.fields.get('scheduler').input.value;
    return this.fitting?.find((one) => (chosen ? one.class_name === chosen : one.is_default));
  }

  #check() {
    this.clear();
    if (!this.model) {
      say(this.error, 'no_models');
      return false;
    }
    for (const one of this.fields.values()) {
      const problem = one.element.hidden ? null : one.problem?.();
      if (problem) {
        one.fail(problem);
        return false;
      }
    }
    return true;
  }

  clear() {
    for (const one of this.fields.values()) one.clear();
    hush(this.error);
  }

  /** Shows a refusal next to the field that it names, else under the button. */
  fail(error) {
    const to = this.fields.get(error.field === 'class_labels' ? 'class_label' : error.field);
    if (to && !to.element.hidden) to.fail(error.message);
    else this.error.textContent = error.message;
  }

  /** The body of a request to draw. */
  body() {
    const body = {};
    for (const [name, one] of this.fields) {
      if (one.element.hidden) continue;
      const value = one.value ? one.value() : one.input.value;
      if (value !== '' && value !== null) body[name] = value;
    }
    if (body.guide) body.guide = body.guide.split(/\s+/).filter(Boolean);
    const classes = this.model.classes.map(({ id }) => id);
    if (body.class_label !== undefined) body.class_label = Number(body.class_label);
    else if (classes.length) body.class_labels = classes.slice(0, body.batch_size); // they take turns
    return body;
  }

  /** Asks for a drawing. Returns its identifier; after a refusal, which is shown, nothing. Undefined settings are left out. */
  async request(more) {
    this.button.disabled = true;
    try {
      const { id } = await call('POST', '/api/draws', { ...this.body(), ...more });
      return id;
    } catch (error) {
      return this.fail(error);
    } finally {
      this.button.disabled = false;
    }
  }

  /** The settings as they stand in the page's address. */
  params() {
    const params = new URLSearchParams();
    for (const [name, one] of this.fields) {
      // An empty value is one, too: the field may begin with another one, which the model's run had.
      if (!one.element.hidden) params.set(name, one.input.value);
    }
    return params;
  }

  /** Restores the settings of an address. */
  async load(params) {
    const wanted = Object.fromEntries(params);
    this.element.setAttribute('aria-busy', 'true');
    // A training may have added a model since.
    await loadModels().catch((error) => this.fail(error));
    const { input } = this.fields.get('model');
    const before = input.value;
    input.replaceChildren(...server.models.map(({ name }) => h('option', { value: name }, name)));
    const chosen = [wanted.model, before].find((name) => server.models.some((model) => model.name === name));
    if (chosen) input.value = chosen;
    for (const name of ['batch_size', 'seed', 'guide', 'from', 'to', 'frames', 'strength', 'mask_way', 'steps_list']) {
      const one = this.fields.get(name);
      if (one && wanted[name] !== undefined) {
        one.input.value = wanted[name];
        one.show?.();
      }
    }
    await this.fit(wanted);
    this.element.removeAttribute('aria-busy');
  }
}
