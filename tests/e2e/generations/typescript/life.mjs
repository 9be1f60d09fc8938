// Stopping, growing, archiving, starting again, and the end.

import { Refused, client, mark, home, sandbox, run, expect, becomes } from './visit.mjs'

const noStore = 'Archiving is not set up' // on a cluster without an object store

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

export const checks = [
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
    try {
      await sandbox.archive()
    } catch (error) {
      throw `${error}`.includes(noStore) ? new Refused(noStore) : error
    }
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
