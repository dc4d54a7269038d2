import { readFileSync } from 'node:fs';
import { parseMetrics } from '@cairn/agent';
import { CliError } from '../cli-error.js';
import { askControl } from '../export/control-socket.js';
import { DataDirectory } from '../stack/data-directory.js';
import { countsOf, type Sample } from './counts.js';
import { poolsIn, reactorsIn, volumesIn } from './scraped.js';

const TIMEOUT_MS = 10_000;

/** Whom to ask: a `cairn export`, or a data plane. */
export interface SourceOptions {
  control?: string;
  agentUrl?: string;
  agentTokenFile?: string;
  dataDir?: string;
}

/** What to look through; each look is one sample. Throws CliError that says what is missing. */
export function sourceOf(
  { control, ...options }: SourceOptions,
  env: NodeJS.ProcessEnv = process.env,
): () => Promise<Sample> {
  return control === undefined ? agentSource(options, env) : () => lookAtExport(control);
}

async function lookAtExport(control: string): Promise<Sample> {
  const { exports, reactors } = await askControl(control, { verb: 'status' });
  return { atMs: performance.now(), volumes: exports.map(countsOf), reactors, pools: [] };
}

function agentSource(options: Omit<SourceOptions, 'control'>, env: NodeJS.ProcessEnv): () => Promise<Sample> {
  const directory = DataDirectory.resolve(options.dataDir, env);
  const url = options.agentUrl ?? env['CAIRN_AGENT_URL'] ?? directory.findAgentUrl();
  if (!url) {
    throw new CliError(
      `there is no data plane: nothing was started on ${directory.path}`,
      'Give --control of a "cairn export", or --agent-url or CAIRN_AGENT_URL of a data plane.',
    );
  }
  if (!URL.canParse('/metrics', url))
    throw new CliError(`${url} is not a URL`, 'It looks like http://127.0.0.1:8701.');
  const token = tokenOf(options, env, directory);
  const headers = { authorization: `Bearer ${token}` };
  return async () => {
    const text = await scrape(new URL('/metrics', url), headers);
    const atMs = performance.now();
    const families = parseMetrics(text);
    return {
      atMs,
      volumes: volumesIn(families),
      reactors: reactorsIn(families),
      pools: poolsIn(families),
    };
  };
}

function tokenOf(
  { agentTokenFile }: SourceOptions,
  env: NodeJS.ProcessEnv,
  directory: DataDirectory,
): string {
  const given = env['CAIRN_AGENT_TOKEN'];
  if (agentTokenFile === undefined && given) return given;
  const file = agentTokenFile ?? env['CAIRN_AGENT_TOKEN_FILE'] ?? directory.secretFile('agent-token');
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (cause) {
    throw new CliError(
      `there is no agent token: ${(cause as Error).message}`,
      'Give --agent-token-file, CAIRN_AGENT_TOKEN or CAIRN_AGENT_TOKEN_FILE.',
      { cause },
    );
  }
}

async function scrape(url: URL, headers: Record<string, string>): Promise<string> {
  let response: Response;
  try {
    response = await fetch(url, { headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (cause) {
    throw new CliError(`no data plane answers at ${url.origin}`, 'Is it running there?', { cause });
  }
  if (response.status === 401)
    throw new CliError(
      `the data plane at ${url.origin} knows another agent token`,
      'Give the one it was given.',
    );
  if (!response.ok) throw new CliError(`the data plane at ${url.origin} answered ${response.status}`);
  return response.text();
}
