// The page's life: it follows the server's events, shows them, and takes the connection up again when it breaks.
import * as api from './api.js';
import {showAnswerBox} from './ask.js';
import {showCache} from './cache.js';
import {showCharts} from './charts.js';
import {$, count, duration, facts, setText, show} from './dom.js';
import {showAttention, showHeads} from './heads.js';
import {showMemory, showRanks} from './memory.js';
import {showSessions} from './sessions.js';
import {showCalls, showRefused} from './work.js';

let following = null;  // ends the stream that is followed
let confirming = 0;    // until when a second press drains

function notice(text) {
  setText($('notice'), text);
  show($('notice'), text !== '');
}

function pill(text, kind) {
  setText($('state'), text);
  $('state').className = `pill ${kind}`;
}

function showServer(state) {
  const {server, plan, caller} = state;
  document.title = `duo: ${server.model}`;
  facts($('server'), [
    ['model', server.model], ['on', server.device], ['ranks', String(plan.world)], ['KV', plan.kv_format],
    ['up', duration(server.uptime_seconds)], ['version', server.version],
    ...(server.tokens ? [['you', `${caller.owner} (${caller.role})`]] : []),
  ]);
  pill(server.state, server.state === 'serving' ? 'good' : 'warn');
  show($('drain'), server.admin && caller.role === 'admin');
  $('drain').disabled = server.state !== 'serving';
  show($('token-open'), server.tokens);
}

function showState(state) {
  notice('');
  showServer(state);
  showSessions(state);
  showAnswerBox(state);
  showCalls(state);
  showCharts(state);
  showMemory(state);
  showCache(state);
  showRanks(state);
  showRefused(state);
  showAttention(state);
}

function sayWhatIsWrong(error) {
  if (error.status === 401) {
    pill('a token is wanted', 'warn');
    show($('token-open'), true);
    notice('This server answers whoever has a token.');
    if (!$('token-dialog').open) $('token-dialog').showModal();
    return;
  }
  if (error.code === 'loading') {
    pill('loading', 'warn');
    return notice('The model is loading. The page goes on by itself.');
  }
  pill('no answer', 'bad');
  notice(error instanceof api.Refused ? error.message : 'The server does not answer. The page tries again every two seconds.');
}

const wait = (ms, signal) => new Promise((done) => {
  setTimeout(done, ms);
  signal.addEventListener('abort', done);
});

async function follow() {
  following?.abort();
  const ending = (following = new AbortController()).signal;
  while (!ending.aborted) {
    try {
      const state = await api.readState(ending);
      showHeads(state);
      showState(state);
      for await (const event of api.readEvents(ending)) showState(event);
      pill('no answer', 'bad');  // it ended: the server stops
    } catch (error) {
      if (ending.aborted) return;
      sayWhatIsWrong(error);
      if (error.status === 401) return;
    }
    await wait(2000, ending);
  }
}

function useToken(event) {
  event.preventDefault();
  api.useToken($('token').value);
  $('token').value = '';
  $('token-dialog').close();
  notice('');
  follow();
}

// The first press asks, the second within five seconds does it.
async function drain() {
  const button = $('drain');
  if (Date.now() > confirming) {
    confirming = Date.now() + 5000;
    button.className = 'danger';
    setText(button, 'Save all and stop?');
    setTimeout(() => {
      button.className = 'quiet';
      setText(button, 'Drain');
    }, 5000);
    return;
  }
  confirming = 0;
  try {
    const done = await api.drain();
    notice(`Drained: ${count(done.saved)} sessions are on disk. The server has ended.`);
  } catch (error) {
    notice(error.message);
  }
}

$('token-form').addEventListener('submit', useToken);
$('token-open').addEventListener('click', () => $('token-dialog').showModal());
$('token-close').addEventListener('click', () => $('token-dialog').close());
$('drain').addEventListener('click', drain);
follow();
