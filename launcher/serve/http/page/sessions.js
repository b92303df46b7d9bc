// The sessions: how full, where, how far an append is and how long it will still take.
import * as api from './api.js';
import {chooseSession} from './ask.js';
import {$, bytes, count, drawBar, duration, el, keep, makeBar, percent, setText, show} from './dom.js';
import {say, sayError} from './notice.js';

const kWindow = 20;             // seconds over which a rate is taken
const marks = new Map();        // session to [[seconds, tokens], ..]: what its append had read when
const kPlaces = {open: 'in memory', moved_out: 'moved out', saved: 'on disk'};

// Tokens a second of the session's append; 0: not known yet.
function rateOf(session, now) {
  const append = session.append;
  if (append === undefined || append.done || append.total_tokens === 0) {
    marks.delete(session.id);
    return 0;
  }
  let seen = marks.get(session.id) ?? [];
  if (seen.length > 0 && append.tokens < seen[seen.length - 1][1]) seen = [];  // another append
  seen.push([now, append.tokens]);
  while (seen.length > 2 && seen[0][0] < now - kWindow) seen.shift();
  marks.set(session.id, seen);
  const seconds = now - seen[0][0];
  return seconds > 0.5 ? (append.tokens - seen[0][1]) / seconds : 0;
}

// In words, the parts that matter most first.
function wordsOf(session, rate, reading) {
  const words = [`${count(session.tokens)} of ${count(session.max_tokens)} tokens`];
  const append = session.append;
  if (append !== undefined && !append.done) {
    if (append.total_tokens === 0) {
      words.push(`receiving a text, ${bytes(append.received_bytes)} are here`);
    } else {
      let reading = `reading ${percent(append.tokens, append.total_tokens)}`;
      if (rate > 0) {
        reading += ` at ${count(rate)} tokens/s, ${duration((append.total_tokens - append.tokens) / rate)} left`;
      }
      words.push(reading);
    }
  }
  if (append === undefined && reading) words.push('reading');
  words.push(kPlaces[session.residence] ?? session.residence);
  if (session.kv_bytes > 0) words.push(bytes(session.kv_bytes));
  if (session.pinned) words.push('pinned');
  if (session.durable) words.push(`durable to ${count(session.durable_tokens)}`);
  if (session.pending_calls > 0) words.push(session.pending_calls === 1 ? 'a call pending' : `${session.pending_calls} calls pending`);
  else if (session.residence === 'open') words.push(`idle for ${duration(session.idle_seconds)}`);
  if (session.held_by) words.push(`held by ${session.held_by}`);
  if (session.unusable) words.push(session.unusable);
  return words.join(' · ');
}

// Whether idle sessions may be moved out is the operator's: the button is there with --admin, for admins.
function makePin(session) {
  const button = el('button', {class: 'quiet', type: 'button'}, 'Pin');
  button.addEventListener('click', async () => {
    button.disabled = true;
    say('');
    try {
      await api.pin(session.id, button.getAttribute('aria-pressed') !== 'true');
    } catch (error) {
      sayError(error);
    }
    button.disabled = false;
  });
  return button;
}

function make(session) {
  const ask = el('button', {class: 'quiet', type: 'button', 'aria-label': `Ask ${session.id}`}, 'Ask');
  ask.addEventListener('click', () => chooseSession(session.id));
  return el('li', {}, el('span', {class: 'name'}, session.id, el('span', {class: 'owner'})), makeBar(),
            el('span', {class: 'buttons'}, makePin(session), ask), el('span', {class: 'more'}));
}

export function showSessions(state) {
  const now = performance.now() / 1000;
  show($('no-sessions'), state.sessions.length === 0);
  keep($('session-list'), state.sessions, (session) => session.id, make, (row, session) => {
    const [name, bar, buttons, more] = row.children;
    const [pin, ask] = buttons.children;
    const append = session.append;
    const coming = append !== undefined && !append.done ? Math.max(0, append.total_tokens - append.tokens) : 0;
    setText(name.lastElementChild, state.caller.everybody && session.owner !== 'default' ? session.owner : '');
    const parts = [[session.tokens / session.max_tokens, '']];
    if (coming > 0) parts.push([coming / session.max_tokens, 'next']);
    drawBar(bar, parts, `${percent(session.tokens, session.max_tokens)} full`);
    ask.classList.toggle('unseen', Boolean(session.held_by || session.unusable));
    const here = session.residence !== 'saved';
    show(pin, state.server.admin && state.caller.role === 'admin' && here);
    pin.setAttribute('aria-pressed', String(Boolean(session.pinned)));
    pin.setAttribute('aria-label', `Pin ${session.id}`);
    const reading = state.calls.some((call) => call.method === 'Append' && call.session === session.id);
    setText(more, wordsOf(session, rateOf(session, now), reading));
  });
}
