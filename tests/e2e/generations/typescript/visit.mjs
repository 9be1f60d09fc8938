// One TypeScript SDK and the sandbox that it visits; what checks share. As visit.py is for Python.

import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'

const require = createRequire(`${process.cwd()}/package.json`)
const sdk = require(process.argv[2])
export const client = new sdk.Daytona()
export const mark = randomBytes(6).toString('hex')
export const folder = `/tmp/calls-${mark}`
export const home = '/home/daytona'
// The sandbox that is visited, and a language server in it.
export let sandbox
export let lsp

export function keep(kept) {
  sandbox = kept.sandbox ?? sandbox
  lsp = kept.lsp ?? lsp
}

// In JavaScript private methods look like others. What needs a registry is not tried.
const notCalls = new Set([
  ...['getCodeToolbox', 'ensureToolboxProxyUrl', 'sandbox.getRootDir', 'sandbox.processSandboxDto'],
  ...['sandbox.applyState', 'sandbox.buildAnalyticsTelemetryApi', 'sandbox.checkStateWaiter'],
  ...['sandbox.ensureSigningKey', 'sandbox.ensureSubscribed', 'sandbox.handleEvent'],
  ...['sandbox.refreshDataSafe', 'sandbox.removeStateWaiter', 'sandbox.subscribeToEvents'],
  ...['sandbox.waitForSnapshotComplete', 'sandbox.waitForState', 'fs.makeFilePayload'],
  ...['process.execRequestOptions', 'codeInterpreter.createCloseError'],
  ...['codeInterpreter.extractMessageText', 'codeInterpreter.normalizeCloseEvent'],
  ...['snapshot.callWithResolvedId', 'snapshot.create'],
])

export class Refused extends Error {}

export function expect(what, seen, wanted) {
  if (JSON.stringify(seen) !== JSON.stringify(wanted))
    throw new Error(`${what}: ${JSON.stringify(seen)} and not ${JSON.stringify(wanted)}`)
}

export async function raises(words, make) {
  try {
    await make()
  } catch (error) {
    if (!`${error}`.toLowerCase().includes(words.toLowerCase())) throw error
    return
  }
  throw new Error(`nothing was raised, and '${words}' was expected`)
}

export async function refused(words, make) {
  await raises(words, make)
  throw new Refused(words)
}

export async function becomes(what, look, wanted) {
  let seen
  for (let n = 0; n < 300; n++) {
    seen = await look()
    if (JSON.stringify(seen) === JSON.stringify(wanted)) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  expect(what, seen, wanted)
}

export async function allOf(found) {
  if (!found?.[Symbol.asyncIterator]) {
    found = await found
    return found.items ?? found
  }
  const items = []
  for await (const item of found) items.push(item)
  return items
}

export function calls() {
  const places = { '': client, sandbox, lsp, volume: client.volume, snapshot: client.snapshot }
  for (const name of ['process', 'fs', 'git', 'codeInterpreter']) places[name] = sandbox?.[name]
  const names = new Set()
  for (const [place, thing] of Object.entries(places)) {
    if (!thing) continue
    const its = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(thing))
    for (const [name, { value }] of Object.entries(its)) {
      const full = place ? `${place}.${name}` : name
      const isCall = typeof value === 'function' && name !== 'constructor' && name[0] !== '_'
      if (isCall && !notCalls.has(full)) names.add(full)
    }
  }
  return names
}

export const has = (name) => calls().has(name)
export const run = async (command) => (await sandbox.process.executeCommand(command)).result.trim()
export const text = (bytes) => Buffer.from(bytes).toString()
export const said = (words) => (words ?? '').replace(/[\x01\x02]/g, '').split(/\s+/).filter(Boolean)
export const page = async (url, headers = {}) => {
  const answer = await fetch(url, { headers })
  return [answer.status, await answer.text()]
}
export const statusOf = async (url) => (await page(url))[0]
// A call that not every generation has.
export const ask = async (path, body = {}) => {
  const { DAYTONA_API_KEY: key, DAYTONA_API_URL: url } = process.env
  const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' }
  const answer = await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) })
  expect(`${path} answers`, answer.ok, true)
}
