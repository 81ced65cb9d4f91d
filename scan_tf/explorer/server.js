// What the page asks of the server.

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function answered(request) {
  let answer;
  try {
    answer = await request;
  } catch {
    throw new Refused(0, "The explorer has ended. Start it again: scan-tf explore RUN");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  if (answer.status === 403) {
    throw new Refused(403, "This page belongs to an explorer that has ended. Open the address that the new one has printed.");
  }
  let why = text;
  try {
    why = JSON.parse(text).error ?? text;
  } catch { /* it is plain text */ }
  throw new Refused(answer.status, why);
}

export async function json(path) {
  return (await answered(fetch(path))).json();
}

export async function bytes(path) {
  return (await answered(fetch(path))).arrayBuffer();
}

export async function post(path, body) {
  const how = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await answered(fetch(path, how))).json();
}
