// Previews, signed URLs, language servers, volumes and snapshots.

import {
  client,
  mark,
  folder,
  sandbox,
  lsp,
  keep,
  has,
  run,
  page,
  statusOf,
  ask,
  expect,
  becomes,
  allOf,
} from './visit.mjs'

const port = 3000

export const checks = [
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
    keep({ lsp: await sandbox.createLspServer('python', `${folder}/lsp`) })
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
]
