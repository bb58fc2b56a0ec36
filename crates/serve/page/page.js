// The page of `kakusan serve`: its views, language and theme. The address holds the view and its settings, so that a
// link shows the same again.

import { get, onConnection } from './api.js';
import * as compare from './compare.js';
import { later } from './dom.js';
import * as draw from './draw.js';
import * as edit from './edit.js';
import { loadModels, server } from './form.js';
import { chooseLanguage, hush, otherLanguage, label, say, switchLanguage } from './text.js';
import * as watch from './watch.js';

const MODULES = { watch, draw, edit, compare };
const THEMES = ['auto', 'light', 'dark'];
const views = {};
let current = null;

function theme(chosen) {
  document.documentElement.dataset.theme = chosen;
  const button = document.getElementById('theme');
  button.textContent = { auto: '◐', light: '☀', dark: '☾' }[chosen];
  label(button, `theme_${chosen}`);
}

function switches() {
  const saved = localStorage.getItem('theme');
  theme(THEMES.includes(saved) ? saved : 'auto');
  document.getElementById('theme').addEventListener('click', () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    localStorage.setItem('theme', next);
    theme(next);
  });
  const language = document.getElementById('language');
  const name = () => {
    language.textContent = otherLanguage();
    language.lang = otherLanguage() === 'English' ? 'en' : 'ja';
  };
  language.addEventListener('click', () => {
    switchLanguage();
    name();
  });
  chooseLanguage();
  name();
}

/** The view and the settings in the address: `#/draw?model=184&seed=3`. */
function address() {
  const [, view, query] = location.hash.match(/^#\/(\w+)(?:\?(.*))?$/) ?? [];
  return { view: view in MODULES ? view : null, params: new URLSearchParams(query) };
}

const link = (view) => document.querySelector(`nav a[href^="#/${view}"]`);

/** Puts settings into the address, without a step in the history for each key. */
const remember = later(150, (view, params) => {
  const hash = `#/${view}?${params}`;
  link(view).href = hash; // the way back from another view
  if (current === view) history.replaceState(null, '', hash);
});

function route() {
  const { view = null, params } = address();
  const next = view ?? (server.models.length ? 'draw' : 'watch');
  if (current !== next) views[current]?.hide?.();
  current = next;
  for (const name of Object.keys(MODULES)) {
    document.getElementById(name).hidden = name !== next;
    link(name).toggleAttribute('aria-current', name === next);
    if (name === next) link(name).setAttribute('aria-current', 'page');
  }
  views[next].show(params);
}

function go(view, params) {
  location.hash = `#/${view}?${params}`;
}

async function start() {
  switches();
  const lost = document.getElementById('lost');
  onConnection((isLost) => {
    lost.hidden = !isLost;
    if (isLost) say(lost, 'lost');
    else hush(lost);
  });
  [server.limits] = await Promise.all([get('/api/limits'), loadModels()]);
  const toEdit = (image) => {
    go('edit', new URLSearchParams({ model: image.model }));
    views.edit.take(image);
  };
  const toDraw = (model) => go('draw', new URLSearchParams({ model }));
  for (const [name, { mount }] of Object.entries(MODULES)) {
    const changed = (params) => remember(name, params);
    views[name] = mount(document.getElementById(name), { changed, edit: toEdit, draw: toDraw });
  }
  addEventListener('hashchange', route);
  route();
}

start().catch((error) => {
  const lost = document.getElementById('lost');
  lost.hidden = false;
  lost.textContent = error.message;
});
