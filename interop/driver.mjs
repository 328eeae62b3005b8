// One process of real XMTP clients, driven from outside. It reads one JSON
// object a line on standard input, {id, op, args}, and answers on descriptor 3,
// {id, ok} or {id, error}, in whatever order operations end. Whatever the SDK
// prints stays on standard output and is no answer.
//
//   driver.mjs <folder with node_modules>          serve
//   driver.mjs --check <folder with node_modules>  load the SDK and leave
import { createWriteStream } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const check = process.argv[2] === "--check";
const folder = process.argv[check ? 3 : 2];
const { resolve } = createRequire(join(folder, "package.json"));
const load = (name) => import(pathToFileURL(resolve(name)));

const sdk = await load("@xmtp/node-sdk");
const { secp256k1 } = await load("@noble/curves/secp256k1");
const { keccak_256 } = await load("@noble/hashes/sha3");

if (typeof sdk.Client?.create !== "function") throw new Error("the SDK has no Client.create");
if (check) process.exit(0);

const utf8 = new TextEncoder();
const hex = (bytes) => Buffer.from(bytes).toString("hex");
const bytes = (text) => Uint8Array.from(Buffer.from(text, "hex"));
const ethereum = (address) => ({ identifier: address.toLowerCase(), identifierKind: 0 });

// wallet signs as personal_sign does, with a key of 32 bytes in hex.
function wallet(key) {
  const secret = bytes(key);
  const address = "0x" + hex(keccak_256(secp256k1.getPublicKey(secret, false).slice(1)).slice(-20));
  return {
    type: "EOA",
    getIdentifier: () => ethereum(address),
    signMessage: (text) => {
      const message = utf8.encode(text);
      const prefix = utf8.encode(`\x19Ethereum Signed Message:\n${message.length}`);
      const signature = secp256k1.sign(keccak_256(Buffer.concat([prefix, message])), secret);
      return Uint8Array.from([...signature.toCompactRawBytes(), 27 + signature.recovery]);
    },
  };
}

const clients = new Map(); // by the name that the caller gave: { client, signer, stream }
const known = (name) => {
  const entry = clients.get(name);
  if (!entry) throw new Error(`no client ${name}`);
  return entry;
};
const of = (name) => known(name).client;

// conversation finds a group or DM that the client has.
async function conversation({ client, group }) {
  const found = await of(client).conversations.getConversationById(group);
  if (!found) throw new Error(`no conversation ${group}`);
  return found;
}

const describe = (m) => ({
  id: m.id,
  sender: m.senderInboxId,
  type: m.contentType?.typeId ?? "",
  text: typeof m.content === "string" ? m.content : "",
  content: typeof m.content === "string" ? undefined : m.content,
  fallback: m.fallback ?? "",
  sentAt: m.sentAtNs,
  status: m.deliveryStatus,
});

// look is everything that members of one conversation must agree on.
async function look(conversation) {
  const [members, messages, debug] = await Promise.all([
    conversation.members(),
    conversation.messages(),
    conversation.debugInfo(),
  ]);
  return {
    name: conversation.name ?? "",
    members: members.map((m) => m.inboxId),
    roles: Object.fromEntries(members.map((m) => [m.inboxId, m.permissionLevel])),
    installations: members.flatMap((m) => m.installationIds),
    messages: messages.map(describe),
    epoch: Number(debug.epoch),
    forked: debug.maybeForked || debug.isCommitLogForked === true,
    details: debug.forkDetails,
    active: conversation.isActive,
  };
}

const operations = {
  async create({ client, key, url, database = null, deviceSync = false }) {
    const signer = wallet(key);
    const made = await sdk.Client.create(signer, {
      env: "local",
      apiUrl: url,
      dbPath: database,
      dbEncryptionKey: database === null ? undefined : new Uint8Array(32).fill(7),
      disableDeviceSync: !deviceSync,
      loggingLevel: "Off",
      appVersion: "conclave-interop/1.0",
    });
    clients.set(client, { client: made, signer });
    return {
      inbox: made.inboxId,
      installation: made.installationId,
      address: signer.getIdentifier().identifier,
      version: made.libxmtpVersion,
    };
  },
  async canMessage({ client, addresses }) {
    return Object.fromEntries(await of(client).canMessage(addresses.map(ethereum)));
  },
  async newGroup({ client, inboxes, name, permissions = 0 }) {
    return (await of(client).conversations.createGroup(inboxes, { groupName: name, permissions })).id;
  },
  async newDM({ client, inbox }) {
    return (await of(client).conversations.createDm(inbox)).id;
  },
  async add(args) {
    await (await conversation(args)).addMembers(args.inboxes);
  },
  async remove(args) {
    await (await conversation(args)).removeMembers(args.inboxes);
  },
  async rename(args) {
    await (await conversation(args)).updateName(args.name);
  },
  async promote(args) {
    const group = await conversation(args);
    await (args.super ? group.addSuperAdmin(args.inbox) : group.addAdmin(args.inbox));
  },
  async permissions(args) {
    return (await conversation(args)).permissions();
  },
  async send(args) {
    return await (await conversation(args)).sendText(args.text);
  },
  async sendMarkdown(args) {
    return await (await conversation(args)).sendMarkdown(args.text);
  },
  async sendReply(args) {
    const content = sdk.encodeText(args.text);
    return await (await conversation(args)).sendReply({ content, reference: args.reference, referenceInboxId: args.inbox });
  },
  async sendReaction(args) {
    return await (await conversation(args)).sendReaction({
      reference: args.reference, referenceInboxId: args.inbox, action: 1, content: args.text, schema: 1,
    });
  },
  async sendReadReceipt(args) {
    return await (await conversation(args)).sendReadReceipt();
  },
  async sync(args) {
    await (await conversation(args)).sync();
  },
  async syncConversations({ client }) {
    await of(client).conversations.sync();
  },
  async syncAll({ client }) {
    return await of(client).conversations.syncAll();
  },
  async conversations({ client }) {
    await of(client).conversations.sync();
    return (await of(client).conversations.list({ includeDuplicateDms: true })).map((c) => c.id);
  },
  async dm({ client, inbox }) {
    await of(client).conversations.syncAll();
    return of(client).conversations.getDmByInboxId(inbox)?.id ?? "";
  },
  // look answers what is stored; sync first brings it up to date.
  async look(args) {
    const found = await conversation(args);
    if (args.sync) await found.sync();
    return await look(found);
  },
  async debug(args) {
    return await (await conversation(args)).debugInfo();
  },
  async hmacKeys(args) {
    const keys = Object.values((await conversation(args)).hmacKeys()).flat();
    return keys.map(({ key, epoch }) => ({ key: hex(key), period: Number(epoch) }));
  },
  async inboxState({ client, inbox }) {
    const [state] = await of(client).preferences.fetchInboxStates([inbox]);
    return {
      installations: state.installations.map((i) => i.id),
      addresses: state.identifiers.map((i) => i.identifier),
    };
  },
  async revoke({ client, installations }) {
    await of(client).revokeInstallations(installations.map(bytes));
  },
  // stream collects what streamAllMessages yields, until streamStop; the other
  // arguments are its options.
  async stream({ client, ...options }) {
    const entry = known(client);
    const messages = [], events = [], waiting = new Map();
    const note = (name) => () => events.push(name);
    const stream = await of(client).conversations.streamAllMessages({
      onValue: (m) => {
        const message = { ...describe(m), group: m.conversationId };
        messages.push(message);
        waiting.get(message.text)?.();
      },
      onFail: note("fail"), onRetry: note("retry"), onRestart: note("restart"),
      onError: (error) => events.push(`error: ${error.message}`),
      ...options,
    });
    entry.stream = { stream, messages, events, waiting };
  },
  // race sends a text and answers when the streams of all these clients have
  // yielded it: after how many milliseconds.
  async race({ readers, text, ...where }) {
    const from = await conversation(where);
    const all = readers.map((reader) => new Promise((seen) => known(reader).stream.waiting.set(text, seen)));
    const start = performance.now();
    await Promise.all([from.sendText(text), ...all]);
    return performance.now() - start;
  },
  async streamed({ client }) {
    const { messages, events } = known(client).stream;
    return { messages, events };
  },
  async streamStop({ client }) {
    await known(client).stream.stream.end();
  },
  async statistics({ client }) {
    return of(client).debugInformation.apiStatistics();
  },
};

const answers = createWriteStream(null, { fd: 3 });
const plain = (_, value) => {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (value instanceof Uint8Array) return hex(value);
  return value;
};
const answer = (value) => answers.write(JSON.stringify(value, plain) + "\n");

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const { id, op, args } = JSON.parse(line);
  const operation = operations[op];
  if (!operation) {
    answer({ id, error: `no operation ${op}` });
    continue;
  }
  operation(args).then(
    (ok) => answer({ id, ok: ok ?? null }),
    (error) => answer({ id, error: String(error?.message ?? error) }),
  );
}
process.exit(0);
