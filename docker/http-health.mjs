// Health check of a container: node docker/http-health.mjs URL. Exits 0 when the URL answers with 2xx.
const answer = await fetch(process.argv[2], { signal: AbortSignal.timeout(4000) });
process.exit(answer.ok ? 0 : 1);
