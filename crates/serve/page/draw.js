// Drawing: the settings on the one side, the images on the other.

import { h } from './dom.js';
import { Form } from './form.js';
import { Gallery } from './gallery.js';

const SETTINGS = ['model', 'num_inference_steps', 'batch_size', 'seed', 'scheduler', 'class_label', 'guidance_scale', 'eta', 'guide'];
/** Where a tab remembers its drawing, so that a reload shows it again. */
const LAST = 'draw';

export function mount(section, { changed, edit }) {
  const form = new Form(SETTINGS, { text: 'start_draw', submit: draw });
  const again = ({ seed, label }) => {
    for (const [name, value] of Object.entries({ seed, batch_size: 1, class_label: label })) form.fields.get(name).input.value = value;
    form.element.requestSubmit();
  };
  const gallery = new Gallery('empty_draw', [['again', again], ['edit_this', edit]]);
  section.append(h('div', { class: 'columns' }, form.element, gallery.element));
  const remember = () => changed(form.params());
  form.element.addEventListener('input', remember);

  async function draw() {
    remember();
    const id = await form.request();
    if (!id) return;
    sessionStorage.setItem(LAST, id);
    gallery.start(id);
  }

  const last = sessionStorage.getItem(LAST);
  if (last) gallery.start(last);
  return { show: (params) => form.load(params) };
}
