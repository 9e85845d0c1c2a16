// A peer of the measurements: node consume.mjs URL QUEUE COUNT PREFETCH, with amqplib, each message acknowledged.
//
// Says `ready` when it is connected, begins when it is told `go`, and says how many microseconds its slice took by its
// own clock: from the first delivery until the broker has taken every acknowledgement (it answers the channel's close
// after them).
import { once } from "node:events";
import { connect } from "amqplib";

const [url, queue] = process.argv.slice(2, 4);
const [count, prefetch] = process.argv.slice(4).map(Number);
const connection = await connect(url);
const channel = await connection.createChannel();
await channel.prefetch(prefetch);
console.log("ready");
await once(process.stdin, "data");

let began;
let handled = 0;
let read = 0;

async function finish() {
  await channel.close();
  if (read === 0) throw new Error("all messages were empty");
  console.log(String((process.hrtime.bigint() - began) / 1000n));
  await connection.close();
  process.exit(0);
}

await channel.consume(queue, (message) => {
  if (message === null) throw new Error("the broker ended the consumer");
  began ??= process.hrtime.bigint();
  handled += 1;
  read += message.content.length;
  channel.ack(message);
  if (handled === count) finish();
});
