import { LoadRun, type LoadSpec } from './load-run.js';

// The load generator's process: one run, its LoadSpec as JSON in argv, its LoadResult as JSON on standard output.
const run = await LoadRun.attach(JSON.parse(process.argv[2]!) as LoadSpec);
const result = run.measure();
await run.detach();
process.stdout.write(`${JSON.stringify(result)}\n`);
