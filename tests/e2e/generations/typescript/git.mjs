// Git, with an origin in the sandbox itself.

import { folder, sandbox, run, said, expect } from './visit.mjs'

const [seed, origin, work, fresh] = ['seed', 'origin.git', 'work', 'fresh'].map((n) => `${folder}-${n}`)

export const checks = [
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
]
