// Handles jobs: node worker.mjs PORT JOBS. Says `ready`, and `done` when it has completed JOBS.
import { Worker } from "bullmq";

const [port, jobs] = process.argv.slice(2).map(Number);
let completed = 0;
let weight = 0;

// BullMQ has decoded the job's data by now; the handler reads every field, as ours does.
async function handle(job) {
  const { order_id, customer, amount_cents, currency, note } = job.data;
  weight ^= order_id ^ amount_cents ^ (customer.length + currency.length + note.length);
}

const worker = new Worker("orders", handle, {
  connection: { host: "127.0.0.1", port, maxRetriesPerRequest: null },
  concurrency: 100,
});
worker.on("error", (error) => console.error(error));
// `completed` comes after the done mark was acknowledged.
worker.on("completed", () => {
  completed += 1;
  if (completed === jobs) console.log("done");
});
await worker.waitUntilReady();
console.log("ready");
