// Compiles wallets.sol into wallets.json, the init code of each contract in hex:
//
//	npm install --no-save solc@0.8.30 && node build.mjs
import fs from 'node:fs'
import { createRequire } from 'node:module'

const solc = createRequire(process.cwd() + '/')('solc')
const here = new URL('.', import.meta.url)
const output = JSON.parse(solc.compile(JSON.stringify({
  language: 'Solidity',
  sources: { 'wallets.sol': { content: fs.readFileSync(new URL('wallets.sol', here), 'utf8') } },
  settings: {
    evmVersion: 'paris',
    optimizer: { enabled: true, runs: 200 },
    metadata: { appendCBOR: false },
    outputSelection: { '*': { '*': ['evm.bytecode.object'] } },
  },
})))
for (const e of output.errors ?? []) console.error(e.formattedMessage)
const contracts = {}
for (const [name, c] of Object.entries(output.contracts['wallets.sol'])) contracts[name] = c.evm.bytecode.object
fs.writeFileSync(new URL('wallets.json', here), JSON.stringify(contracts, null, 1) + '\n')
