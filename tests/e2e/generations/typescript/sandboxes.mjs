// Creating, finding and changing a sandbox.

import {
  client,
  mark,
  home,
  sandbox,
  keep,
  has,
  run,
  expect,
  raises,
  refused,
  allOf,
} from './visit.mjs'

export const checks = [
  [['create'], async () => {
    keep({ sandbox: await client.create({
      envVars: { MARK: `${mark} '"$HOME`, EMPTY: '' },
      labels: { calls: mark },
      autoStopInterval: 30,
    }) })
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
]
