// Editing: a picture is redrawn, in part where a mask is painted on it; and the images between two seeds.

import { base64, h } from './dom.js';
import { Form, field, numberField, seedField, server, sliderField } from './form.js';
import { Film, Gallery } from './gallery.js';
import { Mask } from './mask.js';
import { hush, say, t } from './text.js';

/** What RePaint fixes: it has its own scheduler, and draws the masked part from noise. */
const NOT_OF_REPAINT = ['scheduler', 'strength', 'eta', 'guidance_scale'];

export function mount(section, { changed }) {
  const modes = { redraw: redraw(changed), between: between(changed) };
  const chosen = (name) => async () => {
    const model = modes[name === 'redraw' ? 'between' : 'redraw'].params().get('model');
    select(name);
    await modes[name].show(new URLSearchParams({ model }));
    changed(modes[name].params());
  };
  const option = (name, text) => {
    const input = h('input', { type: 'radio', name: 'edit-mode', value: name, change: chosen(name) });
    return [input, h('label', { class: 'check' }, input, h('span', { t: text }))];
  };
  const [[first, firstLabel], [second, secondLabel]] = [option('redraw', 'redraw'), option('between', 'between_two')];
  const inputs = { redraw: first, between: second };
  section.append(h('fieldset', { class: 'modes' }, h('legend', { t: 'ways', class: 'hidden' }), firstLabel, secondLabel),
    ...Object.values(modes).map(({ element }) => element));

  function select(name) {
    inputs[name].checked = true;
    for (const [one, { element }] of Object.entries(modes)) element.hidden = one !== name;
  }

  return {
    show(params) {
      const name = params.get('mode') === 'between' ? 'between' : 'redraw';
      select(name);
      return modes[name].show(params);
    },
    /** Takes an image of another view. */
    take: (image) => modes.redraw.take(image),
  };
}

function redraw(changed) {
  const strength = sliderField('strength', { min: 0.05, max: 1, step: 0.05, value: 0.6, hint: 'strength_hint' });
  const way = field('mask_way', h('select', {}, h('option', { value: 'blend', t: 'blend' }), h('option', { value: 'repaint', t: 'repaint' })));
  const form = new Form(['model', 'num_inference_steps', 'batch_size', 'seed', 'class_label', 'scheduler', 'guidance_scale', 'eta'],
    { text: 'start_edit', submit: draw, more: [way, strength], batch: 4 });
  // Until it is chosen, the strength is what usually serves: a mask leaves enough of the picture, a variation should.
  let isChosen = false;
  strength.input.addEventListener('input', () => (isChosen = true));
  const mask = new Mask(() => {
    if (isChosen) return;
    strength.input.value = mask.isEmpty ? 0.6 : 1;
    strength.show();
  });
  const file = h('input', { type: 'file', accept: 'image/*', class: 'hidden', id: 'upload', change: () => upload(file.files[0]) });
  const error = h('p', { class: 'error', role: 'alert' });
  const empty = h('p', { class: 'status', t: 'no_picture' });
  const sources = h('div', { class: 'actions' }, file, h('label', { for: 'upload', class: 'button quiet', t: 'upload' }),
    h('button', { type: 'button', class: 'quiet', t: 'draw_one', click: drawOne }));
  const gallery = new Gallery('empty_edit', [['edit_this', take]]);
  mask.element.hidden = gallery.element.hidden = true;
  form.button.disabled = true;
  const element = h('div', { class: 'columns' }, form.element,
    h('div', { class: 'work' }, h('div', { class: 'source' }, sources, error, empty, mask.element), gallery.element));
  /** The picture: what a canvas can draw, and its own bytes if it has the model's size already. */
  let source = null;

  const params = () => form.params();
  form.element.addEventListener('input', () => changed(params()));
  way.input.addEventListener('input', showWay);
  form.onModel = () => {
    fit();
    showWay();
  };

  function showWay() {
    const isRepaint = way.input.value === 'repaint';
    const hide = (name, isHidden) => (form.fields.get(name).element.hidden = isRepaint || isHidden);
    hide('scheduler', false);
    hide('strength', false);
    hide('eta', !form.scheduler?.takes_eta);
    hide('guidance_scale', !form.model?.classes.length);
  }

  /** Fits the picture to the model's size: it is cut to the same proportions, around its middle. */
  function fit() {
    const { model } = form;
    const size = `${model?.width} ${model?.height}`;
    if (!source || !model || source.size === size) return; // a mask that is painted stays
    source.size = size;
    const { bitmap } = source;
    const canvas = h('canvas', { width: model.width, height: model.height });
    const scale = Math.max(model.width / bitmap.width, model.height / bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(bitmap, (model.width - width) / 2, (model.height - height) / 2, width, height);
    mask.load(canvas, model.width, model.height);
    source.png = source.own && scale === 1 && width === model.width && height === model.height ? source.own
      : canvas.toDataURL('image/png').split(',')[1];
    empty.hidden = true;
    mask.element.hidden = gallery.element.hidden = form.button.disabled = false;
  }

  async function load(blob) {
    hush(error);
    try {
      // Our own PNGs are sent back as they are, so that what the mask keeps stays the same to the last bit.
      source = { bitmap: await createImageBitmap(blob), own: blob.type === 'image/png' ? await base64(blob) : null };
      fit();
    } catch {
      say(error, 'not_picture');
    }
  }

  function upload(chosen) {
    file.value = ''; // the same file can be chosen again
    if (chosen) load(chosen);
  }

  async function take({ file: url, model }) {
    const select = form.fields.get('model').input;
    if (select.value !== model && server.models.some(({ name }) => name === model)) {
      select.value = model;
      await form.fit();
    }
    const answer = await fetch(url).catch(() => null);
    if (answer?.ok) await load(await answer.blob());
    else say(error, 'gone');
  }

  async function drawOne() {
    hush(error);
    const settings = form.body();
    const one = { batch_size: 1, class_labels: settings.class_labels?.slice(0, 1), mask_way: undefined, strength: undefined };
    try {
      const options = { method: 'POST', headers: { 'Content-Type': 'application/json' } };
      const answer = await fetch('/api/images', { ...options, body: JSON.stringify({ ...settings, ...one }) });
      if (!answer.ok) throw new Error((await answer.json()).error);
      await load(await answer.blob());
    } catch ({ message }) {
      error.textContent = message;
    }
  }

  async function draw() {
    changed(params());
    const isRepaint = way.input.value === 'repaint';
    if (isRepaint && mask.isEmpty) return way.fail(t('repaint_mask'));
    const masked = mask.isEmpty ? { mask_way: undefined } : { mask: { png: mask.png() } };
    const fixed = isRepaint ? Object.fromEntries(NOT_OF_REPAINT.map((name) => [name, undefined])) : {};
    const id = await form.request({ init: { png: source.png }, ...masked, ...fixed });
    if (id) gallery.start(id);
  }

  return { element, params, show: (wanted) => form.load(wanted), take };
}

function between(changed) {
  const { limits } = server;
  const most = Math.min(limits.max_images, 64);
  const ends = [seedField('from'), seedField('to')];
  ends[1].input.value = 1;
  const frames = numberField('frames', { min: 2, max: most, value: Math.min(most, 24) });
  const form = new Form(['model', 'num_inference_steps', 'scheduler', 'class_label'],
    { text: 'start_between', submit: draw, more: [...ends, frames] });
  const film = new Film('empty_between');
  const element = h('div', { class: 'columns' }, form.element, film.element);
  const params = () => {
    const all = form.params();
    all.set('mode', 'between');
    return all;
  };
  form.element.addEventListener('input', () => changed(params()));

  async function draw() {
    changed(params());
    const { from, to, frames, class_label = form.model.classes[0]?.id } = form.body();
    const flat = { from: undefined, to: undefined, frames: undefined, class_labels: undefined };
    const id = await form.request({ ...flat, interpolate: { from, to, frames }, class_label });
    if (id) film.start(id);
  }

  async function show(wanted) {
    await form.load(wanted);
    // A scheduler that adds no noise on its way gives a smooth animation.
    const select = form.fields.get('scheduler').input;
    const isSmooth = [...select.options].some(({ value }) => value === 'DDIMScheduler');
    if (!wanted.has('scheduler') && isSmooth) select.value = 'DDIMScheduler';
  }

  return { element, params, show };
}
