// Files: content both ways, what is there, and changes of it.

import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'

import { folder, sandbox, run, text, expect, raises, allOf } from './visit.mjs'

export const checks = [
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
]
