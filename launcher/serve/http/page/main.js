// The page's life: it follows the server's events, shows them, and takes the connection up again when it breaks.
import * as api from './api.js';
import {showAnswerBox} from './ask.js';
import {showCache} from './cache.js';
import {showCharts} from './charts.js';
import {$, count, duration, facts, setText, show} from './dom.js';
import {showAttention, showHeads} from './heads.js';
import {showMemory, showRanks} from './memory.js';
import {notice, say, sayError} from './notice.js';
import {showSessions} from './sessions.js';
import {showCalls, showRefused} from './work.js';

let following = null;  // ends the stream that is followed
let confirming = 0;    // until when a second press drains
let saves = false;     // sessions outlive the server

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
  saves = server.saves;
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
  $('drain').disabled = true;
  if (error.status === 401) {
    pill('a token is wanted', 'warn');
    show($('token-open'), true);
    notice('This server answers whoever has a token.');
    show($('token-failed'), api.hasToken());
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

const sessions = (n) => (n === 1 ? 'one session is' : `${count(n)} sessions are`);

// The first press asks, the second within five seconds does it.
async function drain() {
  const button = $('drain');
  if (Date.now() > confirming) {
    confirming = Date.now() + 5000;
    button.className = 'danger';
    setText(button, saves ? 'Save all and stop?' : 'Stop without saving?');
    setTimeout(() => {
      button.className = 'quiet';
      setText(button, 'Drain');
    }, 5000);
    return;
  }
  confirming = 0;
  say('');
  try {
    const {saved, dropped} = await api.drain();
    say(saves ? `Drained: ${sessions(saved)} on disk. The server has ended.` :
                `The server has ended, and ${sessions(dropped)} gone.`);
  } catch (error) {
    sayError(error);
  }
}

$('token-form').addEventListener('submit', useToken);
$('token-open').addEventListener('click', () => {
  show($('token-failed'), false);
  $('token-dialog').showModal();
});
$('token-close').addEventListener('click', () => $('token-dialog').close());
$('drain').addEventListener('click', drain);
follow();
