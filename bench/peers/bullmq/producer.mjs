// Adds jobs: node producer.mjs PORT JOBS PRODUCERS BATCH. Says `ready`, and begins when it is told `go`.
import { Queue } from "bullmq";

const [port, jobs, producers, batch] = process.argv.slice(2).map(Number);
const queue = new Queue("orders", {
  connection: { host: "127.0.0.1", port, maxRetriesPerRequest: null },
  defaultJobOptions: { removeOnComplete: true, removeOnFail: true },
});
const note = "please ring twice ".repeat(8);

function order(id) {
  return { order_id: id, customer: `customer-${id % 10007}`, amount_cents: 1999, currency: "EUR", note: note.slice(0, 100) };
}

let sent = 0;

async function produce() {
  while (sent < jobs) {
    const first = sent;
    const size = Math.min(batch, jobs - first);
    sent += size;
    if (batch === 1) {
      await queue.add("order", order(first));
    } else {
      await queue.addBulk(Array.from({ length: size }, (_, index) => ({ name: "order", data: order(first + index) })));
    }
  }
}

await queue.waitUntilReady();
console.log("ready");
process.stdin.once("data", async () => {
  await Promise.all(Array.from({ length: producers }, produce));
  await queue.close();
  process.exit(0);
});
