// The server's API: state, its events, questions, the drain. The token is a variable of this module: it is sent in a
// header, and is in no URL, cookie or storage.

let token = '';
export const hasToken = () => token !== '';
// A whole line of the token file will do: the token is its first word.
export function useToken(text) {
  token = text.trim().split(/\s+/)[0];
}

// What the server refused: its sentence, its code, and the HTTP status.
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code ?? '';
  }
}

async function call(path, {body, signal} = {}) {
  const headers = token === '' ? {} : {Authorization: `Bearer ${token}`};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const answer = await fetch(path, {
    method: body === undefined ? 'GET' : 'POST',
    headers, signal,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: 'no-store', credentials: 'omit', redirect: 'error',
  });
  if (answer.ok) return answer;
  let error;
  try {
    error = (await answer.json()).error;
  } catch {
    error = undefined;  // whatever stands before the server answered in its stead
  }
  throw new Refused(answer.status, error);
}

// The events of a stream, as the objects that their data are. Comments keep it alive and say nothing.
async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const data = text.slice(0, end).split('\n').filter((line) => line.startsWith('data: ')).map((line) => line.slice(6));
      text = text.slice(end + 2);
      if (data.length > 0 && data[0] !== '[DONE]') yield JSON.parse(data.join('\n'));
    }
  }
}

export async function readState(signal) {
  return (await call('/duo/v1/state', {signal})).json();
}

export async function* readEvents(signal) {
  for await (const event of eventsOf(await call('/duo/v1/events', {signal}))) {
    if (event.error) throw new Refused(event.error.code === 'invalid_api_key' ? 401 : 0, event.error);
    yield event;
  }
}

// Pieces of the answer: {text}, and at the end {done, finish, stats}.
export async function* ask(session, fields, signal) {
  const path = `/duo/v1/sessions/${encodeURIComponent(session)}/ask`;
  for await (const piece of eventsOf(await call(path, {body: {...fields, stream: true}, signal}))) {
    if (piece.error) throw new Refused(0, piece.error);
    yield piece;
  }
}

export async function pin(session, pinned) {
  await call(`/duo/v1/sessions/${encodeURIComponent(session)}/pin`, {body: {pinned}});
}

export async function drain() {
  return (await call('/duo/v1/drain', {body: {}})).json();
}
