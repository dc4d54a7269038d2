// Health check of the worker, which serves no HTTP: its sweep must have used the database a moment ago.
import { readFileSync } from 'node:fs';
import pg from 'pg';

const client = new pg.Client({
  connectionString: readFileSync(process.env.DATABASE_URL_FILE, 'utf8').trim(),
  connectionTimeoutMillis: 4000,
  query_timeout: 4000,
});
await client.connect();
const { rows } = await client.query(
  `SELECT count(*)::int AS live FROM pg_stat_activity
   WHERE application_name = 'cairn-worker' AND client_addr = inet_client_addr()
     AND state_change > now() - interval '30 seconds'`,
);
await client.end();
process.exit(rows[0].live > 0 ? 0 : 1);
