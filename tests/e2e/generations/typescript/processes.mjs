// Commands, sessions, terminals and the interpreter.

import { mark, sandbox, text, said, expect, raises, becomes } from './visit.mjs'

const session = `session-${mark}`
const inSession = async (command, runAsync = false) =>
  await sandbox.process.executeSessionCommand(session, { command, runAsync })

export const checks = [
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
]
