import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../../', import.meta.url));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const setting = /\b(CAIRN_[A-Z_]*[A-Z]|DATABASE_URL|REDIS_URL)\b/g;
const plain = (name: string) => name.replace(/_FILE$/, '');

/** The settings in the table of the README. */
const documented = new Set([...read('README.md').matchAll(/^\| `([A-Z_]+)`/gm)].map((match) => match[1]!));

/** Every source file of the product. */
const sources = ['apps', 'libs']
  .flatMap((top) =>
    readdirSync(join(root, top), { recursive: true, encoding: 'utf8' }).map((name) => join(top, name)),
  )
  .filter((path) => path.endsWith('.ts') && !path.endsWith('.spec.ts') && !path.includes('/testing/'));

describe('README.md', () => {
  it('has every setting that the configuration of an app reads', () => {
    const configurations = sources.filter((path) => /\/config[^/]*\.ts$/.test(path));
    expect(configurations.length).toBeGreaterThanOrEqual(3);
    const used = configurations.flatMap((path) => read(path).match(setting) ?? []).map(plain);
    expect([...new Set(used)].filter((name) => !documented.has(name))).toEqual([]);
  });

  it('has no setting that nothing reads', () => {
    const all = new Set(sources.flatMap((path) => read(path).match(setting) ?? []).map(plain));
    expect([...documented].filter((name) => !all.has(name))).toEqual([]);
  });

  it('names only npm scripts that exist', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const named = [...`${read('README.md')}${read('CONTRIBUTING.md')}`.matchAll(/npm run ([a-z:]+)/g)];
    expect(named.map((match) => match[1]!).filter((name) => !(name in scripts))).toEqual([]);
  });

  it('links only to files that exist', () => {
    const links = [...read('README.md').matchAll(/\]\(([^)#:]+)\)/g)].map((match) => match[1]!);
    for (const link of links) expect(() => readdirSync(join(root, link, '..')), link).not.toThrow();
  });
});
