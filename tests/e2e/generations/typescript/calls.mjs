// Makes every call of one TypeScript SDK, whatever its generation, and says how each went: the same
// as ../visit.py and its checks do for Python, whose words it uses.
//
// Runs in a directory with the SDK's node_modules (node calls.mjs PACKAGE). The last line that it
// prints is one JSON object with every public call that this generation has.

import { checks as ofFiles } from './files.mjs'
import { checks as ofGit } from './git.mjs'
import { checks as ofLife } from './life.mjs'
import { checks as ofProcesses } from './processes.mjs'
import { checks as ofSandboxes } from './sandboxes.mjs'
import { checks as ofServices } from './services.mjs'
import { Refused, calls, has, sandbox } from './visit.mjs'

// Pairs of calls and how they are checked, which is done when the generation has any of them.
const checks = [ofSandboxes, ofProcesses, ofFiles, ofGit, ofServices, ofLife].flat()

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
