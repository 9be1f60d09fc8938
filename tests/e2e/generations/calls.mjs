// Makes every call of one TypeScript SDK, whatever its generation, and says how each went: the same
// as visit.py and its checks do for Python, whose words it uses.
//
// Runs in a directory with the SDK's node_modules (node calls.mjs PACKAGE). The last line that it
// prints is one JSON object with every public call that this generation has.

import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { Readable } from 'node:stream'

const require = createRequire(`${process.cwd()}/package.json`)
const sdk = require(process.argv[2])
const client = new sdk.Daytona()
const mark = randomBytes(6).toString('hex')
const folder = `/tmp/calls-${mark}`
const [seed, origin, work, fresh] = ['seed', 'origin.git', 'work', 'fresh'].map((n) => `${folder}-${n}`)
const session = `session-${mark}`
const home = '/home/daytona'
const port = 3000
let sandbox
let lsp

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

class Refused extends Error {}

function expect(what, seen, wanted) {
  if (JSON.stringify(seen) !== JSON.stringify(wanted))
    throw new Error(`${what}: ${JSON.stringify(seen)} and not ${JSON.stringify(wanted)}`)
}

async function raises(words, make) {
  try {
    await make()
  } catch (error) {
    if (!`${error}`.toLowerCase().includes(words.toLowerCase())) throw error
    return
  }
  throw new Error(`nothing was raised, and '${words}' was expected`)
}

async function refused(words, make) {
  await raises(words, make)
  throw new Refused(words)
}

async function becomes(what, look, wanted) {
  let seen
  for (let n = 0; n < 300; n++) {
    seen = await look()
    if (JSON.stringify(seen) === JSON.stringify(wanted)) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  expect(what, seen, wanted)
}

async function allOf(found) {
  if (!found?.[Symbol.asyncIterator]) {
    found = await found
    return found.items ?? found
  }
  const items = []
  for await (const item of found) items.push(item)
  return items
}

function calls() {
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

const has = (name) => calls().has(name)
const run = async (command) => (await sandbox.process.executeCommand(command)).result.trim()
const text = (bytes) => Buffer.from(bytes).toString()
const said = (words) => (words ?? '').replace(/[\x01\x02]/g, '').split(/\s+/).filter(Boolean)
const inSession = async (command, runAsync = false) =>
  await sandbox.process.executeSessionCommand(session, { command, runAsync })
const page = async (url, headers = {}) => {
  const answer = await fetch(url, { headers })
  return [answer.status, await answer.text()]
}
const statusOf = async (url) => (await page(url))[0]
// A call that not every generation has.
const ask = async (path, body = {}) => {
  const { DAYTONA_API_KEY: key, DAYTONA_API_URL: url } = process.env
  const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' }
  const answer = await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) })
  expect(`${path} answers`, answer.ok, true)
}
const freshState = async () => {
  await sandbox.refreshData()
  return sandbox.state
}
const gone = async (id) => {
  try {
    return (await client.get(id)).state === 'destroyed'
  } catch (error) {
    if (/not found|404/i.test(`${error}`)) return true
    throw error
  }
}

// Calls, and how they are checked: made when the generation has any of them.
const checks = [
  [['create'], async () => {
    sandbox = await client.create({
      envVars: { MARK: `${mark} '"$HOME`, EMPTY: '' },
      labels: { calls: mark },
      autoStopInterval: 30,
    })
    expect('state', sandbox.state, 'started')
  }],
  [['get'], async () => {
    expect('id', (await client.get(sandbox.id)).id, sandbox.id)
    await raises('', () => client.get(`missing-${mark}`))
  }],
  [['list'], async () => {
    const labels = { calls: mark }
    const found = await allOf(client.list(has('findOne') ? labels : { labels }))
    expect('ids', found.map((one) => one.id), [sandbox.id])
  }],
  [['findOne'], async () =>
    expect('id', (await client.findOne({ labels: { calls: mark } })).id, sandbox.id)],
  [['sandbox.refreshData'], async () => {
    await sandbox.refreshData()
    expect('environment', sandbox.env, { MARK: `${mark} '"$HOME`, EMPTY: '' })
  }],
  [['sandbox.setLabels'], async () => {
    const labels = { calls: mark, more: 'yes' }
    await sandbox.setLabels(labels)
    await sandbox.refreshData()
    expect('labels', sandbox.labels, labels)
  }],
  [['sandbox.setAutostopInterval'], async () => {
    await sandbox.setAutostopInterval(45)
    await sandbox.refreshData()
    expect('interval', sandbox.autoStopInterval, 45)
  }],
  [['sandbox.setAutoArchiveInterval'], async () => {
    await sandbox.setAutoArchiveInterval(90)
    await sandbox.refreshData()
    expect('interval', sandbox.autoArchiveInterval, 90)
  }],
  [['sandbox.setAutoDeleteInterval'], async () => {
    for (const interval of [90, -1]) {
      await sandbox.setAutoDeleteInterval(interval)
      await sandbox.refreshData()
      expect('interval', sandbox.autoDeleteInterval, interval)
    }
  }],
  [['sandbox.setAutoPauseInterval'], async () => {
    await sandbox.setAutoPauseInterval(0)
    await sandbox.setAutostopInterval(0)
    await refused('not support pausing', () => sandbox.setAutoPauseInterval(30))
  }],
  [['sandbox.setTtl'], async () => {
    for (const minutes of [600, 0]) {
      await sandbox.setTtl(minutes)
      await sandbox.refreshData()
      expect('it has an end', Boolean(sandbox.autoDestroyAt), minutes > 0)
    }
  }],
  [['sandbox.refreshActivity'], async () => {
    await sandbox.refreshData()
    const before = sandbox.lastActivityAt
    await new Promise((resolve) => setTimeout(resolve, 1100))
    await sandbox.refreshActivity()
    await sandbox.refreshData()
    expect('it is later', sandbox.lastActivityAt > before, true)
  }],
  [['sandbox.getUserRootDir', 'sandbox.getUserHomeDir', 'sandbox.getWorkDir'], async () => {
    for (const name of ['getUserRootDir', 'getUserHomeDir', 'getWorkDir'])
      if (has(`sandbox.${name}`)) expect(name, await sandbox[name](), home)
  }],
  [['sandbox.updateNetworkSettings'], async () => {
    for (const networkBlockAll of [true, false]) {
      await sandbox.updateNetworkSettings({ networkBlockAll })
      await sandbox.refreshData()
      expect('blocked', sandbox.networkBlockAll, networkBlockAll)
    }
  }],
  [['sandbox.updateEnv'], async () => {
    await sandbox.updateEnv({ LATER: mark })
    expect('later', await run('printenv LATER'), mark)
  }],
  [['sandbox.getMetricsLatest'], async () => {
    const numbers = Object.values(await sandbox.getMetricsLatest())
    expect('there are figures', numbers.some((one) => typeof one === 'number' && one > 0), true)
  }],
  [['sandbox.getMetrics'], async () => await refused('Cannot GET', () => sandbox.getMetrics())],
  [['sandbox.updateSecrets'], async () =>
    await refused('Cannot PUT', () => sandbox.updateSecrets({ A: 'b' }))],
  [['sandbox.createSshAccess'], async () =>
    await refused('Cannot POST', () => sandbox.createSshAccess(10))],
  [['sandbox.validateSshAccess'], async () =>
    await refused('Cannot GET', () => sandbox.validateSshAccess('token'))],
  [['sandbox.revokeSshAccess'], async () =>
    await refused('Cannot DELETE', () => sandbox.revokeSshAccess('token'))],
  [['sandbox.fork'], async () => await refused('Forking is not supported', () => sandbox.fork())],
  [['fork'], async () =>
    await refused('Forking is not supported', () => client.fork(sandbox))],
  [['sandbox.pause'], async () => await refused('Pausing is not supported', () => sandbox.pause())],
  [['sandbox.recover'], async () =>
    await raises('not in a recoverable state', () => sandbox.recover())],
  [['sandbox.createSnapshot'], async () => {
    const name = `calls-${mark}`
    await run(`echo ${mark} > ${home}/in-snapshot`)
    await sandbox.createSnapshot(name)
    const copy = await client.create({ snapshot: name })
    try {
      const answer = await copy.process.executeCommand(`cat ${home}/in-snapshot`)
      expect('content', answer.result.trim(), mark)
    } finally {
      await client.delete(copy)
    }
    await client.snapshot.delete(await client.snapshot.get(name))
  }],
  [['process.executeCommand'], async () => {
    const command = 'printf "%s|${EMPTY-unset}|$GIVEN" "$MARK"'
    const given = 'é $(id) `id`'
    let answer = await sandbox.process.executeCommand(command, undefined, { GIVEN: given })
    const wanted = `${mark} '"$HOME||${given}`
    expect('answer', [answer.exitCode, answer.result.trimEnd()], [0, wanted])
    answer = await sandbox.process.executeCommand('cat <<END | tr a-z A-Z; pwd; exit 7\nword\nEND', '/tmp')
    expect('here-document', [answer.exitCode, said(answer.result)], [7, ['WORD', '/tmp']])
  }],
  [['process.codeRun'], async () => {
    const answer = await sandbox.process.codeRun("print(6 * 7, 'ü')")
    expect('answer', [answer.exitCode, answer.result.trim()], [0, '42 ü'])
  }],
  [['process.createSession'], async () => {
    await sandbox.process.createSession(session)
    await raises('', () => sandbox.process.createSession(session))
  }],
  [['process.executeSessionCommand'], async () => {
    await inSession(`cd /tmp && export KEPT=${mark}`)
    const answer = await inSession('echo $KEPT $PWD; (exit 3)')
    const words = said(answer.stdout ?? answer.output)
    expect('state is kept', [answer.exitCode, words], [3, [mark, '/tmp']])
  }],
  [['process.getSessionCommandLogs', 'process.getSessionCommand'], async () => {
    const command = 'for n in 1 2 3; do echo line-$n; sleep 0.2; done'
    const { cmdId } = await inSession(command, true)
    const heard = []
    const hear = (chunk) => heard.push(chunk)
    await sandbox.process.getSessionCommandLogs(session, cmdId, hear, hear)
    expect('followed', said(heard.join('')), ['line-1', 'line-2', 'line-3'])
    const exitCode = async () => (await sandbox.process.getSessionCommand(session, cmdId)).exitCode
    await becomes('exit code', exitCode, 0)
    const logs = await sandbox.process.getSessionCommandLogs(session, cmdId)
    expect('logs', said(logs.stdout ?? logs), ['line-1', 'line-2', 'line-3'])
  }],
  [['process.sendSessionCommandInput'], async () => {
    const { cmdId } = await inSession('read line && echo got:$line', true)
    await sandbox.process.sendSessionCommandInput(session, cmdId, mark)
    const heard = async () => said((await sandbox.process.getSessionCommandLogs(session, cmdId)).stdout)
    await becomes('it heard', async () => (await heard()).includes(`got:${mark}`), true)
  }],
  [['process.getSession', 'process.listSessions', 'process.deleteSession'], async () => {
    const shown = await sandbox.process.getSession(session)
    expect('session', [shown.sessionId, shown.commands.length > 1], [session, true])
    const listed = async () =>
      (await sandbox.process.listSessions()).filter((one) => one.sessionId === session).length
    expect('listed', await listed(), 1)
    await sandbox.process.deleteSession(session)
    expect('listed after it was deleted', await listed(), 0)
  }],
  [['process.getEntrypointSession', 'process.getEntrypointLogs'], async () => {
    expect('id', (await sandbox.process.getEntrypointSession()).sessionId, 'entrypoint')
    expect('logs', typeof (await sandbox.process.getEntrypointLogs()).output, 'string')
  }],
  [['process.createPty'], async () => {
    const heard = []
    const pty = await sandbox.process.createPty({
      id: `pty-${mark}`, cols: 91, rows: 33, envs: { GIVEN: mark },
      onData: (data) => heard.push(text(data)),
    })
    await pty.waitForConnection()
    await pty.sendInput('stty size; echo =$GIVEN=; exit 5\n')
    expect('exit code', (await pty.wait()).exitCode, 5)
    const all = heard.join('')
    expect('size and environment', [all.includes('33 91'), all.includes(`=${mark}=`)], [true, true])
  }],
  [['process.connectPty', 'process.listPtySessions', 'process.getPtySessionInfo',
    'process.resizePtySession', 'process.killPtySession'], async () => {
    const { process } = sandbox
    const name = `second-${mark}`
    const first = await process.createPty({ id: name, cols: 80, rows: 24, onData: () => {} })
    await first.waitForConnection()
    await first.disconnect()
    expect('listed', (await process.listPtySessions()).map((one) => one.id), [name])
    await process.resizePtySession(name, 120, 50)
    const shown = await process.getPtySessionInfo(name)
    expect('size', [shown.cols, shown.rows], [120, 50])
    const heard = []
    const second = await process.connectPty(name, { onData: (data) => heard.push(text(data)) })
    await second.waitForConnection()
    await second.sendInput('stty size; exit 6\n')
    expect('exit code', (await second.wait()).exitCode, 6)
    expect('its size is told', heard.join('').includes('50 120'), true)
    const third = `third-${mark}`
    const left = await process.createPty({ id: third, cols: 80, rows: 24, onData: () => {} })
    await left.waitForConnection()
    await process.killPtySession(third)
    const active = async () => (await process.listPtySessions()).filter((one) => one.active).length
    await becomes('active ones', active, 0)
  }],
  [['codeInterpreter.runCode'], async () => {
    await sandbox.codeInterpreter.runCode('x = 20')
    const result = await sandbox.codeInterpreter.runCode("print(x + 1)\nraise KeyError('gone')")
    expect('result', [result.stdout.trim(), result.error.name], ['21', 'KeyError'])
  }],
  [['codeInterpreter.createContext', 'codeInterpreter.listContexts', 'codeInterpreter.deleteContext'],
    async () => {
      const { codeInterpreter } = sandbox
      const context = await codeInterpreter.createContext('/tmp')
      const result = await codeInterpreter.runCode("print('x' in globals())", { context })
      expect('its own variables', result.stdout.trim(), 'False')
      const listed = async () => (await codeInterpreter.listContexts()).map((one) => one.id)
      expect('listed', await listed(), [context.id])
      await codeInterpreter.deleteContext(context)
      expect('left', await listed(), [])
    }],
  [['fs.createFolder'], async () => {
    await sandbox.fs.createFolder(`${folder}/deep/er`, '750')
    expect('mode', await run(`stat -c '%F %a' ${folder}/deep/er`), 'directory 750')
  }],
  [['fs.uploadFile', 'fs.downloadFile'], async () => {
    const content = randomBytes(1 << 20)
    const path = `${folder}/new/a b ü.bin`
    await sandbox.fs.uploadFile(content, path)
    const back = Buffer.from(await sandbox.fs.downloadFile(path))
    expect('content is the same', Buffer.compare(back, content), 0)
    await raises('', () => sandbox.fs.downloadFile(`${folder}/missing`))
  }],
  [['fs.uploadFiles'], async () => {
    const files = [0, 1, 2].map((n) => ({
      source: Buffer.from(`needle ${n}\n`), destination: `${folder}/${n}.txt`,
    }))
    await sandbox.fs.uploadFiles(files)
    for (const n of [0, 1, 2])
      expect('content', text(await sandbox.fs.downloadFile(`${folder}/${n}.txt`)), `needle ${n}\n`)
  }],
  [['fs.downloadFiles'], async () => {
    const wanted = [{ source: `${folder}/1.txt` }, { source: `${folder}/missing` }]
    const [there, missing] = await sandbox.fs.downloadFiles(wanted)
    expect('content', text(there.result), 'needle 1\n')
    expect('the missing one has an error', Boolean(missing.error), true)
  }],
  [['fs.uploadFileStream', 'fs.downloadFileStream'], async () => {
    const content = randomBytes(3 << 20)
    await sandbox.fs.uploadFileStream(Readable.from([content]), `${folder}/new/stream`)
    const back = await allOf(await sandbox.fs.downloadFileStream(`${folder}/new/stream`))
    expect('content is the same', Buffer.compare(Buffer.concat(back), content), 0)
  }],
  [['fs.listFiles'], async () => {
    const names = (await sandbox.fs.listFiles(folder)).map((one) => [one.name, one.isDir]).sort()
    const files = [0, 1, 2].map((n) => [`${n}.txt`, false])
    expect('names', names, [...files, ['deep', true], ['new', true]])
  }],
  [['fs.getFileDetails'], async () => {
    const { name, isDir, size, owner } = await sandbox.fs.getFileDetails(`${folder}/1.txt`)
    expect('details', [name, isDir, size, owner], ['1.txt', false, 9, await run('id -u')])
  }],
  [['fs.findFiles'], async () => {
    const found = await sandbox.fs.findFiles(folder, 'needle 2')
    expect('matches', found.map((one) => [one.file, one.line]), [[`${folder}/2.txt`, 1]])
  }],
  [['fs.searchFiles'], async () =>
    expect('files', (await sandbox.fs.searchFiles(folder, '1.t*')).files, [`${folder}/1.txt`])],
  [['fs.replaceInFiles'], async () => {
    const [result] = await sandbox.fs.replaceInFiles([`${folder}/2.txt`], 'needle', 'thread')
    expect('success', result.success, true)
    expect('content', await run(`cat ${folder}/2.txt`), 'thread 2')
  }],
  [['fs.moveFiles'], async () => {
    await sandbox.fs.moveFiles(`${folder}/0.txt`, `${folder}/moved.txt`)
    const there = await run(`cat ${folder}/moved.txt; test -e ${folder}/0.txt || echo gone`)
    expect('content', there.split('\n'), ['needle 0', 'gone'])
  }],
  [['fs.setFilePermissions'], async () => {
    const permissions = { mode: '600', owner: 'daytona', group: 'daytona' }
    await sandbox.fs.setFilePermissions(`${folder}/1.txt`, permissions)
    expect('mode', await run(`stat -c '%a %U %G' ${folder}/1.txt`), '600 daytona daytona')
  }],
  [['fs.deleteFile'], async () => {
    await sandbox.fs.deleteFile(`${folder}/1.txt`)
    expect('it is there', await run(`test -e ${folder}/1.txt || echo gone`), 'gone')
  }],
  [['git.clone'], async () => {
    await run(
      `set -e; git init -q -b main ${seed}; cd ${seed}; echo one > file; git add file;` +
        ` git -c user.name=A -c user.email=a@b.c commit -q -m first; git clone -q --bare . ${origin}`,
    )
    await sandbox.git.clone(`file://${origin}`, work, 'main')
    expect('content', await run(`cat ${work}/file`), 'one')
  }],
  [['git.status'], async () => {
    await run(`echo two > ${work}/new`)
    const { currentBranch, fileStatus } = await sandbox.git.status(work)
    const files = fileStatus.map((one) => [one.name, one.worktree])
    expect('status', [currentBranch, files], ['main', [['new', 'Untracked']]])
  }],
  [['git.add', 'git.commit'], async () => {
    await sandbox.git.add(work, ['new'])
    const { sha } = await sandbox.git.commit(work, 'second', 'A', 'a@b.c')
    expect('commit', await run(`git -C ${work} log -1 --format='%H %s %an %ae'`), `${sha} second A a@b.c`)
  }],
  [['git.push'], async () => {
    await sandbox.git.push(work)
    expect('log', said(await run(`git -C ${origin} log --format=%s main`)), ['second', 'first'])
  }],
  [['git.pull'], async () => {
    await run(
      `set -e; cd ${seed}; git pull -q ${origin} main; echo 3 > third; git add third;` +
        ` git -c user.name=A -c user.email=a@b.c commit -q -m third; git push -q ${origin} main`,
    )
    await sandbox.git.pull(work)
    expect('content', await run(`cat ${work}/third`), '3')
  }],
  [['git.branches'], async () =>
    expect('branches', (await sandbox.git.branches(work)).branches.includes('main'), true)],
  [['git.createBranch', 'git.checkoutBranch', 'git.deleteBranch'], async () => {
    const mine = async () => (await sandbox.git.branches(work)).branches.includes('mine')
    await sandbox.git.createBranch(work, 'mine')
    expect('it is there', await mine(), true)
    await sandbox.git.checkoutBranch(work, 'main')
    expect('branch', (await sandbox.git.status(work)).currentBranch, 'main')
    await sandbox.git.deleteBranch(work, 'mine')
    expect('it is there', await mine(), false)
  }],
  [['git.init', 'git.configureUser', 'git.getConfig', 'git.setConfig', 'git.reset', 'git.restore'],
    async () => {
      const { git } = sandbox
      await git.init(fresh, false, 'trunk')
      await git.configureUser('A', 'a@b.c', 'local', fresh)
      await git.setConfig('core.editor', 'ed', 'local', fresh)
      expect('email', await git.getConfig('user.email', 'local', fresh), 'a@b.c')
      expect('editor', await git.getConfig('core.editor', 'local', fresh), 'ed')
      await run(`cd ${fresh}; echo 1 > f; git add f; git commit -qm one; echo 2 > f`)
      await git.restore(fresh, ['f'])
      expect('restored', await run(`cat ${fresh}/f`), '1')
      await run(`cd ${fresh}; echo 2 > f; git commit -qam two`)
      await git.reset(fresh, 'hard', 'HEAD~1')
      expect('reset', await run(`cat ${fresh}/f; git -C ${fresh} branch`), '1\n* trunk')
    }],
  [['git.remoteAdd', 'git.remoteGet', 'git.remotes'], async () => {
    await sandbox.git.remoteAdd(fresh, 'up', `file://${origin}`)
    const { remotes } = await sandbox.git.remotes(fresh)
    expect('remotes', remotes.map((one) => [one.name, one.url]), [['up', `file://${origin}`]])
    expect('remote', await sandbox.git.remoteGet(fresh, 'up'), `file://${origin}`)
  }],
  [['git.dangerouslyAuthenticate'], async () => {
    await sandbox.git.dangerouslyAuthenticate('me', 'word', 'git.example.org')
    const asked = await run("printf 'protocol=https\\nhost=git.example.org\\n\\n' | git credential fill")
    expect('credential', said(asked).includes('password=word'), true)
  }],
  [['sandbox.getPreviewLink'], async () => {
    await run(`mkdir -p ${folder}/www && printf ${mark} > ${folder}/www/page`)
    await run(`nohup python3 -m http.server --directory ${folder}/www ${port} >/dev/null 2>&1 </dev/null &`)
    const link = await sandbox.getPreviewLink(port)
    const url = `${link.url.replace(/\/$/, '')}/page`
    await becomes('the page', () => page(url, { 'X-Daytona-Preview-Token': link.token }), [200, mark])
    expect('without a token', await statusOf(url), 401)
  }],
  [['sandbox.getSignedPreviewUrl', 'sandbox.expireSignedPreviewUrl'], async () => {
    const signed = await sandbox.getSignedPreviewUrl(port, 600)
    const url = `${signed.url.replace(/\/$/, '')}/page`
    await becomes('the page', () => page(url), [200, mark])
    await sandbox.expireSignedPreviewUrl(port, signed.token)
    await becomes('the page, called back', () => statusOf(url), 401)
  }],
  [['sandbox.uploadUrl', 'sandbox.downloadUrl', 'sandbox.rotateSigningKey'], async () => {
    const path = `${folder}/signed ü`
    const there = await fetch(await sandbox.uploadUrl(path), { method: 'POST', body: 'by link' })
    expect('status of the upload', there.status, 200)
    const url = await sandbox.downloadUrl(path)
    expect('content', await page(url), [200, 'by link'])
    await sandbox.rotateSigningKey()
    await becomes('the old link', () => statusOf(url), 401)
  }],
  [['sandbox.createLspServer'], async () => {
    lsp = await sandbox.createLspServer('python', `${folder}/lsp`)
  }],
  [['lsp.start', 'lsp.didOpen', 'lsp.documentSymbols', 'lsp.sandboxSymbols', 'lsp.workspaceSymbols',
    'lsp.completions', 'lsp.didClose', 'lsp.stop'], async () => {
    const path = `${folder}/lsp/sample.py`
    const source = 'def greet_everybody():\n    pass\n\ngreet_ev\n'
    await sandbox.fs.uploadFile(Buffer.from(source), path)
    await lsp.start()
    await lsp.didOpen(path)
    for (const found of [
      await lsp.documentSymbols(path),
      await lsp.sandboxSymbols('greet'),
      await lsp.workspaceSymbols('greet'),
    ])
      expect('symbols', found.some((one) => one.name === 'greet_everybody'), true)
    const { items } = await lsp.completions(path, { line: 3, character: 8 })
    expect('completions', items.some((one) => one.label === 'greet_everybody'), true)
    await lsp.didClose(path)
    await lsp.stop()
  }],
  [['volume.create', 'volume.get', 'volume.list', 'volume.delete'], async () => {
    const { volume } = client
    const name = `volume-${mark}`
    const listed = async () => (await volume.list()).filter((one) => one.name === name).length
    await volume.create(name)
    await becomes('state', async () => (await volume.get(name)).state, 'ready')
    expect('listed', await listed(), 1)
    await volume.delete(await volume.get(name))
    await becomes('listed after it was deleted', listed, 0)
  }],
  [['snapshot.list', 'snapshot.get', 'snapshot.activate', 'snapshot.delete'], async () => {
    const { snapshot } = client
    const name = `snapshot-${mark}`
    await ask(`/sandbox/${sandbox.id}/snapshot`, { name })
    const made = await snapshot.get(name)
    expect('state', made.state, 'active')
    if (has('snapshot.activate')) {
      await ask(`/snapshots/${made.id}/deactivate`)
      expect('activated', (await snapshot.activate(made)).state, 'active')
    }
    const listed = async () => (await allOf(snapshot.list())).filter((one) => one.name === name).length
    expect('listed', await listed(), 1)
    await snapshot.delete(made)
    await becomes('listed after it was deleted', listed, 0)
  }],
  [['stop'], async () => {
    await run(`echo ${mark} > ${home}/kept`)
    await client.stop(sandbox)
    expect('state', await freshState(), 'stopped')
  }],
  [['start'], async () => {
    await client.start(sandbox)
    expect('state', await freshState(), 'started')
    expect('kept', await run(`cat ${home}/kept`), mark)
  }],
  [['sandbox.stop', 'sandbox.waitUntilStopped'], async () => {
    await sandbox.stop()
    await sandbox.waitUntilStopped()
    expect('state', await freshState(), 'stopped')
  }],
  [['sandbox.resize', 'sandbox.waitForResizeComplete'], async () => {
    const disk = sandbox.disk + 1
    await sandbox.resize({ cpu: 2, disk })
    await sandbox.waitForResizeComplete()
    await sandbox.refreshData()
    expect('size', [sandbox.cpu, sandbox.disk], [2, disk])
  }],
  [['sandbox.start', 'sandbox.waitUntilStarted'], async () => {
    await sandbox.start()
    await sandbox.waitUntilStarted()
    expect('state', await freshState(), 'started')
    expect('kept', await run(`cat ${home}/kept`), mark)
  }],
  [['sandbox.archive'], async () => {
    await sandbox.stop()
    await sandbox.archive()
    await becomes('state', freshState, 'archived')
    await sandbox.start()
    expect('kept', await run(`cat ${home}/kept`), mark)
  }],
  [['sandbox.delete'], async () => {
    const other = await client.create()
    await other.delete()
    await becomes('it is gone', () => gone(other.id), true)
  }],
  [['delete'], async () => {
    await client.delete(sandbox)
    await becomes('it is gone', () => gone(sandbox.id), true)
  }],
]

const outcomes = {}
for (const [names, check] of checks) {
  const there = names.filter((name) => name === 'create' || has(name))
  if (!there.length) continue
  console.error(`${there.join(', ')} ...`)
  let came = 'works'
  try {
    await check()
  } catch (error) {
    came = error instanceof Refused ? `refused: ${error.message}` : `${error}`.slice(0, 500)
  }
  for (const name of there) if ((outcomes[name] ?? 'works') === 'works') outcomes[name] = came
  if (!sandbox) break
}
for (const name of calls()) outcomes[name] ??= 'untried'
console.log(JSON.stringify(outcomes))
process.exit(0)
