// The server's API: requests, and streams that survive a lost connection.

import { t } from './text.js';

/** A refused request: `field` names the setting that is to blame, if one is. */
export class ApiError extends Error {
  constructor(status, message, field) {
    super(message);
    this.status = status;
    this.field = field;
  }
}

export async function call(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.headers = { 'Content-Type': 'application/json' };
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new ApiError(0, t('no_answer'));
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const { error, field } = await answer.json().catch(() => ({}));
  const busy = { 429: 'too_many', 503: 'queue_full' }[answer.status];
  throw new ApiError(answer.status, busy ? t(busy) : (error ?? `${answer.status} ${answer.statusText}`), field);
}

export const get = (path) => call('GET', path);

/** Path segments of the API. */
export const path = (...segments) => `/api/${segments.map(encodeURIComponent).join('/')}`;

const lost = new Set();
let tell = () => {};
/** Calls `action` with whether a connection is lost, whenever that changes. */
export const onConnection = (action) => (tell = action);

/**
 * Listens to a stream of events: `handlers` by their names, `open` after each connection, `refused` when the server
 * answers that it does not know `resource`. It reconnects by itself, also to a server that was restarted. Returns a
 * function that ends it.
 */
export function listen(url, resource, handlers) {
  const key = Symbol(url);
  let source;
  let timer;
  let ended = false;
  const mark = (isLost) => {
    const before = lost.size;
    if (isLost) lost.add(key);
    else lost.delete(key);
    if (!before !== !lost.size) tell(lost.size > 0);
  };
  const connect = () => {
    source = new EventSource(url);
    source.onopen = () => {
      mark(false);
      handlers.open?.();
    };
    source.onerror = async () => {
      if (ended) return;
      mark(true);
      // A browser tries again by itself, but some wait long, and none does after an answer other than 200.
      source.close();
      clearTimeout(timer);
      const known = await fetch(resource).then((answer) => answer.status !== 404, () => true);
      if (ended) return;
      if (known) timer = setTimeout(connect, 1000);
      else {
        end();
        handlers.refused?.();
      }
    };
    for (const [name, handler] of Object.entries(handlers)) {
      if (name === 'open' || name === 'refused') continue;
      source.addEventListener(name, (event) => !ended && handler(JSON.parse(event.data)));
    }
  };
  const end = () => {
    ended = true;
    clearTimeout(timer);
    source.close();
    mark(false);
  };
  connect();
  return end;
}

/**
 * Follows a draw to its end: `update` gets each state, `gone` is called when the server does not know it (any more).
 * Returns a function that stops following.
 */
export function follow(id, update, gone) {
  const state = (now) => {
    update(now);
    if (isOver(now)) end();
  };
  const draw = path('draws', id);
  const end = listen(`${draw}/events`, draw, { state, step: state, done: state, failed: state, refused: gone });
  return end;
}

export const isOver = ({ state }) => ['done', 'failed', 'cancelled'].includes(state);
