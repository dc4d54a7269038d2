import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';

interface Service {
  image: string;
  command?: string | string[];
  environment?: Record<string, string>;
  secrets?: string[];
  networks?: string[];
  ports?: string[];
  volumes?: (string | { source: string; target: string })[];
  security_opt?: string[];
  cap_drop?: string[];
  read_only?: boolean;
  user?: string;
  depends_on?: Record<string, { condition: string }>;
  healthcheck?: { test: string[]; interval: string; timeout: string; retries: number };
}

interface Compose {
  services: Record<string, Service>;
  networks: Record<string, { internal?: boolean }>;
  volumes: Record<string, object>;
  secrets: Record<string, { file?: string }>;
}

const root = fileURLToPath(new URL('../../', import.meta.url));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const compose = parse(read('docker-compose.yml'), { merge: true }) as Compose;
const services = Object.entries(compose.services);
const apps = ['control-plane', 'worker', 'data-plane'] as const;

/** Every setting that the configuration of an app, or of a lib that it reads, mentions. */
function knownSettings(app: string): Set<string> {
  const source = [`apps/${app}/src/config.ts`, 'libs/persistence/src', 'libs/jobs/src']
    .flatMap((path) =>
      path.endsWith('.ts')
        ? [path]
        : readdirSync(join(root, path), { recursive: true, encoding: 'utf8' })
            .filter((name) => name.endsWith('.ts'))
            .map((name) => join(path, name)),
    )
    .map(read)
    .join('\n');
  const names = source.match(/\b(CAIRN_[A-Z_]+|DATABASE_URL|REDIS_URL)\b/g) ?? [];
  return new Set(names.flatMap((name) => [name, `${name}_FILE`]));
}

describe('docker-compose.yml', () => {
  it('has the databases and the three apps', () => {
    expect(services.map(([name]) => name).toSorted()).toEqual([
      'control-plane',
      'data-plane',
      'postgres',
      'redis',
      'worker',
    ]);
  });

  it.each(services)('%s has a pinned image, a health check and a way to end by itself', (_, service) => {
    expect(service.image).toMatch(/^[a-z/-]+:\d+\.\d+(\.\d+)?(-[a-z]+)?$/);
    expect(service.healthcheck?.test.length).toBeGreaterThan(1);
    expect(service.healthcheck).toMatchObject({
      interval: expect.stringMatching(/s$/),
      retries: expect.any(Number),
    });
  });

  it.each(services)('%s cannot gain privileges, and an app has none', (name, service) => {
    expect(service.security_opt).toContain('no-new-privileges:true');
    if (name === 'postgres') return;
    expect(service).toMatchObject({
      cap_drop: ['ALL'],
      read_only: true,
      user: expect.stringMatching(/^[1-9]/),
    });
  });

  it.each(apps)('%s is given only settings that it knows, and runs the file that is built', (name) => {
    const service = compose.services[name]!;
    const known = knownSettings(name);
    expect(Object.keys(service.environment ?? {}).filter((setting) => !known.has(setting))).toEqual([]);
    const [, entry = ''] = service.command as string[];
    expect(existsSync(join(root, entry.replace(/^dist\//, '').replace(/\.js$/, '.ts')))).toBe(true);
  });

  it.each(services)('%s gets its secrets as files, each declared and used', (_, service) => {
    const used = service.secrets ?? [];
    expect(used.filter((secret) => !(secret in compose.secrets))).toEqual([]);
    const text = JSON.stringify([service.environment, service.command, service.healthcheck]);
    // The health check of the worker reads the file that DATABASE_URL_FILE names.
    for (const secret of used) expect(text).toContain(`/run/secrets/${secret}`);
    for (const [setting, value] of Object.entries(service.environment ?? {})) {
      if (/(PASSWORD|TOKEN|KEY|DATABASE_URL|REDIS_URL)/.test(setting)) {
        expect(setting).toMatch(/_FILE$/);
        expect(value).toMatch(/^\/run\/secrets\//);
      }
    }
  });

  it('keeps every secret in a file that is not in the repository', () => {
    for (const { file = '' } of Object.values(compose.secrets))
      expect(file).toMatch(/^\.\/\.cairn\/compose\//);
    expect(read('.gitignore').split('\n')).toContain('.cairn/');
    const made = read('scripts/compose-secrets.mjs').match(/ensure\('([a-z-]+)'/g) ?? [];
    expect(made.map((call) => call.slice(8, -1)).toSorted()).toEqual(Object.keys(compose.secrets).toSorted());
  });

  it('publishes one port, on the loopback interface, and keeps the databases inside', () => {
    const ports = services.flatMap(([name, { ports = [] }]) => ports.map((port) => `${name} ${port}`));
    expect(ports).toEqual(['control-plane 127.0.0.1:8700:8700']);
    expect(compose.networks['internal']?.internal).toBe(true);
    for (const [name, { networks }] of services) {
      expect(networks).toEqual(name === 'control-plane' ? ['internal', 'edge'] : ['internal']);
    }
  });

  it('starts what needs the databases after them, and lets the data plane depend on nothing', () => {
    const healthy = { postgres: { condition: 'service_healthy' }, redis: { condition: 'service_healthy' } };
    expect(compose.services['control-plane']?.depends_on).toEqual(healthy);
    expect(compose.services['worker']?.depends_on).toEqual(healthy);
    expect(compose.services['data-plane']?.depends_on).toBeUndefined();
  });

  it('keeps what must outlive a container in volumes, and shows sockets under the same path outside', () => {
    expect(compose.services['postgres']?.volumes).toEqual(['postgres:/var/lib/postgresql/data']);
    expect(Object.keys(compose.volumes)).toEqual(['postgres']);
    const { volumes = [], environment = {} } = compose.services['data-plane']!;
    const targets = volumes.map((volume) => (typeof volume === 'string' ? '' : volume.target));
    for (const volume of volumes)
      expect(volume).toMatchObject({ source: (volume as { target: string }).target });
    for (const setting of ['CAIRN_POOL_DIR', 'CAIRN_STATE_DIR', 'CAIRN_SOCKET_DIR']) {
      expect(targets.some((target) => environment[setting]?.startsWith(target))).toBe(true);
    }
  });

  it('allows the data plane io_uring, which the default profile of Docker forbids', () => {
    expect(compose.services['data-plane']?.security_opt).toContain(
      'seccomp=./docker/seccomp-data-plane.json',
    );
    const profile = JSON.parse(read('docker/seccomp-data-plane.json')) as {
      defaultAction: string;
      syscalls: { names: string[] }[];
    };
    const refused = profile.syscalls.flatMap(({ names }) => names);
    expect(profile.defaultAction).toBe('SCMP_ACT_ALLOW');
    expect(refused.filter((name) => name.startsWith('io_uring'))).toEqual([]);
    expect(refused).toEqual(expect.arrayContaining(['ptrace', 'mount', 'bpf', 'init_module']));
  });

  it('refers only to files that the image holds', () => {
    const dockerfile = read('Dockerfile');
    const copied = dockerfile.includes('COPY docker/*.mjs ./docker/');
    for (const [, { healthcheck }] of services) {
      const script = healthcheck?.test.find((word) => word.startsWith('docker/'));
      if (script) expect([copied, existsSync(join(root, script))]).toEqual([true, true]);
    }
    expect(dockerfile).toMatch(/^USER cairn$/m);
  });
});
