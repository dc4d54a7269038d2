import { newId, type Operation, type OperationIntent, type ProjectId } from '@cairn/domain';
import { Database, dataSourceOptions, migrate, PersistenceModule, UnitOfWork } from '@cairn/persistence';
import { NestFactory } from '@nestjs/core';
import { DataSource } from 'typeorm';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sql, startPostgres, type TestPostgres } from '../support/databases.js';

let postgres: TestPostgres;
let url: string;
let database: Database;
let projectId: ProjectId;

beforeAll(async () => {
  postgres = await startPostgres();
  url = await postgres.createDatabase();
  database = await Database.open({ url, applicationName: 'test' });
});
afterAll(async () => {
  await database?.close();
  await postgres?.stop();
});
beforeEach(async () => {
  projectId = (await database.unitOfWork.run(({ projects }) => projects.ensure(newId('proj')))).id;
});

function createIntent(overrides: Partial<OperationIntent & { kind: 'create-volume' }> = {}): OperationIntent {
  return {
    projectId,
    kind: 'create-volume',
    params: { sizeBytes: 1048576 },
    target: { volumeId: newId('vol') },
    requestDigest: 'digest',
    ...overrides,
  };
}

async function insertOperation(overrides: Parameters<typeof createIntent>[0] = {}): Promise<Operation> {
  return (await database.unitOfWork.run(({ operations }) => operations.insert(createIntent(overrides))))
    .operation;
}

async function insertVolume() {
  return database.unitOfWork.run(({ volumes }) =>
    volumes.insert({ id: newId('vol'), projectId, sizeBytes: 1048576 }),
  );
}

const claim = (id: Operation['id'], workerId = 'w1', leaseMs = 10_000) =>
  database.unitOfWork.read(({ operations }) => operations.claim(id, { workerId, leaseMs }));

async function claimOrThrow(id: Operation['id'], workerId = 'w1', leaseMs = 10_000): Promise<Operation> {
  const claimed = await claim(id, workerId, leaseMs);
  if (!claimed) throw new Error('not claimed');
  return claimed;
}

describe('migrations', () => {
  const names = [
    'InitialSchema1790000000000',
    'Snapshots1791000000000',
    'VolumeSources1792000000000',
    'Inventory1793000000000',
    'LowSpace1795000000000',
    'WrittenSnapshots1796000000000',
  ];

  it('run from empty, by two processes at once, and do nothing the second time', async () => {
    const empty = await postgres.createDatabase();
    const sources = [1, 2].map(
      () => new DataSource(dataSourceOptions({ url: empty, applicationName: 'test' })),
    );
    await Promise.all(sources.map((source) => source.initialize()));
    const ran = await Promise.all(sources.map((source) => migrate(source)));
    expect(ran.flat()).toEqual(names);
    const [source] = sources;
    expect(await migrate(source!)).toEqual([]);
    await Promise.all(sources.map((each) => each.destroy()));
  });

  it('go down to nothing and up again', async () => {
    const empty = await postgres.createDatabase();
    const source = await new DataSource(
      dataSourceOptions({ url: empty, applicationName: 'test' }),
    ).initialize();
    await migrate(source);
    for (const _ of names) await source.undoLastMigration();
    expect(await sql(empty, `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)).toEqual([
      { tablename: 'cairn_migrations' },
    ]);
    expect(await migrate(source)).toEqual(names);
    await source.destroy();
  });

  it('give every entity its columns, of the type and nullability it declares', async () => {
    const source = await new DataSource(dataSourceOptions({ url, applicationName: 'test' })).initialize();
    const rows = await sql<{ t: string; c: string; type: string; nullable: boolean }>(
      url,
      `SELECT table_name t, column_name c, udt_name AS type, is_nullable = 'YES' AS nullable
       FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'cairn_migrations'`,
    );
    const actual = rows.map(({ t, c, type, nullable }) => `${t}.${c} ${type} ${nullable}`).toSorted();
    const declared = source.entityMetadatas
      .flatMap((entity) =>
        entity.columns.map(
          (column) =>
            `${entity.tableName}.${column.databaseName} ${String(column.type)} ${column.isNullable}`,
        ),
      )
      .toSorted();
    await source.destroy();
    expect(actual).toEqual(declared);
  });
});

describe('volumes', () => {
  it('let exactly one of many racing transitions through', async () => {
    const creating = await insertVolume();
    const volume = await database.unitOfWork.run(({ volumes }) => volumes.transition(creating, 'created'));
    const results = await Promise.allSettled(
      Array.from({ length: 8 }, () =>
        database.unitOfWork.run(({ volumes }) => volumes.transition(volume, 'attached', { generation: 1 })),
      ),
    );
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'concurrent-change' });
    }
    expect(await database.unitOfWork.read(({ volumes }) => volumes.findById(volume.id))).toMatchObject({
      state: 'in-use',
      generation: 1,
    });
  });

  it('keep the place they were given first', async () => {
    const { id } = await insertVolume();
    const first = { nodeId: newId('node'), poolId: newId('pool') };
    const second = { nodeId: newId('node'), poolId: newId('pool') };
    await database.unitOfWork.read(({ volumes }) => volumes.place(id, first));
    expect(await database.unitOfWork.read(({ volumes }) => volumes.place(id, second))).toMatchObject(first);
    await database.unitOfWork.read(({ volumes }) => volumes.unplace(id, first.nodeId));
    expect(await database.unitOfWork.read(({ volumes }) => volumes.place(id, second))).toMatchObject(second);
  });

  it('page newest first without repeating or missing any while others come', async () => {
    const ids: string[] = [];
    for (let i = 0; i < 7; i += 1) ids.unshift((await insertVolume()).id);
    const seen: string[] = [];
    let after: number | undefined;
    do {
      const from = after;
      const page = await database.unitOfWork.read(({ volumes }) =>
        volumes.list(projectId, { limit: 3, after: from }),
      );
      seen.push(...page.volumes.map(({ id }) => id));
      after = page.next;
      await insertVolume();
    } while (after !== undefined);
    expect(seen).toEqual(ids);
  });

  it('are readable for the retention after deletion, then forgotten and purged', async () => {
    const creating = await insertVolume();
    const deleted = await database.unitOfWork.run(async ({ volumes }) => {
      const available = await volumes.transition(creating, 'created');
      return volumes.transition(await volumes.transition(available, 'delete'), 'removed');
    });
    const find = () => database.unitOfWork.read(({ volumes }) => volumes.find(projectId, deleted.id));
    expect(await find()).toMatchObject({ state: 'deleted' });
    expect(await database.unitOfWork.read(({ volumes }) => volumes.purgeDeleted())).toBe(0);
    await sql(url, `UPDATE volumes SET deleted_at = now() - interval '61 minutes' WHERE id = $1`, [
      deleted.id,
    ]);
    expect(await find()).toBeUndefined();
    expect(await database.unitOfWork.read(({ volumes }) => volumes.purgeDeleted())).toBe(1);
  });
});

describe('attachments', () => {
  it('allow one live one per volume', async () => {
    const volume = await insertVolume();
    const insert = (generation: number) =>
      database.unitOfWork.run(({ attachments }) =>
        attachments.insert({
          id: newId('att'),
          projectId,
          volumeId: volume.id,
          generation,
          readOnly: false,
          numQueues: 1,
        }),
      );
    const first = await insert(1);
    await expect(insert(2)).rejects.toMatchObject({ code: 'concurrent-change' });
    const failed = await database.unitOfWork.run(({ attachments }) =>
      attachments.transition(first, 'failed', { reason: { code: 'no-capacity', message: 'full' } }),
    );
    expect(failed).toMatchObject({ state: 'error', reason: { code: 'no-capacity', message: 'full' } });
    expect(failed.endedAt).toBeInstanceOf(Date);
    await insert(2);
  });

  it('carry their connection once attached', async () => {
    const volume = await insertVolume();
    const connection = { type: 'vhost-user-blk', socketPath: '/s', serial: volume.id, numQueues: 4 } as const;
    const attached = await database.unitOfWork.run(async ({ attachments }) => {
      const row = await attachments.insert({
        id: newId('att'),
        projectId,
        volumeId: volume.id,
        generation: 1,
        readOnly: true,
        numQueues: 4,
      });
      return attachments.transition(row, 'attached', { nodeId: newId('node'), connection });
    });
    expect(attached).toMatchObject({ state: 'attached', connection, readOnly: true });
    expect(await database.unitOfWork.read(({ attachments }) => attachments.findLive(volume.id))).toEqual(
      attached,
    );
  });
});

describe('operations', () => {
  it('give two racing inserts with one token the same operation', async () => {
    const results = await Promise.all(
      Array.from({ length: 6 }, () =>
        database.unitOfWork.run(({ operations }) => operations.insert(createIntent({ clientToken: 'race' }))),
      ),
    );
    expect(new Set(results.map(({ operation }) => operation.id)).size).toBe(1);
    expect(results.filter(({ isNew }) => isNew)).toHaveLength(1);
  });

  it('undo everything of a transaction that throws', async () => {
    await expect(
      database.unitOfWork.run(async ({ operations }) => {
        await operations.insert(createIntent({ clientToken: 'undone' }));
        throw new Error('boom');
      }),
    ).rejects.toThrow('boom');
    expect(
      await database.unitOfWork.read(({ operations }) => operations.findByClientToken(projectId, 'undone')),
    ).toBeUndefined();
  });

  it('are claimed by exactly one of many workers', async () => {
    const { id } = await insertOperation();
    const claims = await Promise.all(Array.from({ length: 8 }, (_, i) => claim(id, `w${i}`)));
    expect(claims.filter(Boolean)).toHaveLength(1);
    expect(claims.find(Boolean)).toMatchObject({ state: 'running', attempts: 1 });
  });

  it('are claimable again when the lease expires, and the old claim is then powerless', async () => {
    const { id } = await insertOperation();
    const old = await claimOrThrow(id, 'w1', 1);
    await new Promise((resolve) => setTimeout(resolve, 20));
    // The same worker again: the claims differ by their attempt.
    const fresh = await claimOrThrow(id, 'w1');
    expect(fresh.attempts).toBe(2);
    const { unitOfWork } = database;
    expect(await unitOfWork.read(({ operations }) => operations.renewLease(old, 1000))).toBe(false);
    await expect(unitOfWork.run(({ operations }) => operations.succeed(old))).rejects.toMatchObject({
      code: 'lease-lost',
    });
    expect(await unitOfWork.read(({ operations }) => operations.renewLease(fresh, 1000))).toBe(true);
    expect(await unitOfWork.run(({ operations }) => operations.succeed(fresh))).toMatchObject({
      state: 'succeeded',
      progress: 100,
    });
  });

  it('end once: after the end nothing can claim, renew or end them', async () => {
    const { id } = await insertOperation();
    const claimed = await claimOrThrow(id);
    const reason = { code: 'no-capacity', message: 'full' } as const;
    const failed = await database.unitOfWork.run(({ operations }) => operations.fail(claimed, reason));
    expect(failed).toMatchObject({ state: 'failed', error: reason });
    expect(failed.finishedAt).toBeInstanceOf(Date);
    expect(await claim(id)).toBeUndefined();
    await expect(
      database.unitOfWork.run(({ operations }) => operations.succeed(claimed)),
    ).rejects.toMatchObject({ code: 'lease-lost' });
  });

  it('move their volume and end in one transaction, or neither', async () => {
    const volume = await insertVolume();
    const { id } = await insertOperation({ target: { volumeId: volume.id } });
    const old = await claimOrThrow(id, 'w1', 1);
    await new Promise((resolve) => setTimeout(resolve, 20));
    await claimOrThrow(id, 'w2');
    await expect(
      database.unitOfWork.run(async ({ volumes, operations }) => {
        await volumes.transition(volume, 'created');
        await operations.succeed(old);
      }),
    ).rejects.toMatchObject({ code: 'lease-lost' });
    expect(await database.unitOfWork.read(({ volumes }) => volumes.findById(volume.id))).toMatchObject({
      state: 'creating',
    });
  });

  it('wait for their retry, unless the deadline has passed', async () => {
    const { id } = await insertOperation();
    const claimed = await claimOrThrow(id);
    const reason = { code: 'agent-unreachable', message: 'connection refused' } as const;
    const retrying = await database.unitOfWork.run(({ operations }) =>
      operations.retryLater(claimed, { delayMs: 60_000, reason }),
    );
    expect(retrying).toMatchObject({ state: 'pending', error: reason, workerId: undefined });
    expect(await claim(id)).toBeUndefined();
    await sql(url, `UPDATE operations SET deadline = now() - interval '1 second' WHERE id = $1`, [id]);
    expect(await claim(id)).toMatchObject({ attempts: 2 });
  });

  describe('found by the sweep', () => {
    const due = async () =>
      (await database.unitOfWork.read(({ operations }) => operations.findDue(1000))).map(({ id }) => id);

    it('when their nudge was lost, and given out once', async () => {
      const { id } = await insertOperation();
      expect(await due()).not.toContain(id);
      await sql(url, 'UPDATE operations SET sweep_at = now() WHERE id = $1', [id]);
      const [first, second] = await Promise.all([due(), due()]);
      expect([...(first ?? []), ...(second ?? [])].filter((each) => each === id)).toHaveLength(1);
      expect(await due()).not.toContain(id);
    });

    it('when their lease has expired, but not while it is renewed', async () => {
      const { id } = await insertOperation();
      const claimed = await claimOrThrow(id, 'w1', 30);
      await database.unitOfWork.read(({ operations }) => operations.renewLease(claimed, 10_000));
      await new Promise((resolve) => setTimeout(resolve, 60));
      expect(await due()).not.toContain(id);
      await database.unitOfWork.read(({ operations }) => operations.renewLease(claimed, 1));
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(await due()).toContain(id);
    });

    it('when their retry is due', async () => {
      const { id } = await insertOperation();
      const claimed = await claimOrThrow(id);
      const reason = { code: 'agent-unreachable', message: 'refused' } as const;
      await database.unitOfWork.run(({ operations }) =>
        operations.retryLater(claimed, { delayMs: 40, reason }),
      );
      expect(await due()).not.toContain(id);
      await new Promise((resolve) => setTimeout(resolve, 60));
      expect(await due()).toContain(id);
    });

    it('never once they have ended', async () => {
      const { id } = await insertOperation();
      const claimed = await claimOrThrow(id);
      await database.unitOfWork.run(({ operations }) => operations.succeed(claimed));
      await sql(url, 'UPDATE operations SET sweep_at = now() WHERE id = $1', [id]);
      expect(await due()).not.toContain(id);
    });
  });

  it('that become forced get the time of a new detach, so that a detach about to give up is still forced', async () => {
    const { operation } = await database.unitOfWork.run(({ operations }) =>
      operations.insert({
        projectId,
        kind: 'detach-volume',
        params: { generation: 1, force: false },
        target: { volumeId: newId('vol'), attachmentId: newId('att') },
        requestDigest: 'digest',
      }),
    );
    await sql(url, `UPDATE operations SET deadline = now() + interval '1 second' WHERE id = $1`, [
      operation.id,
    ]);
    const forced = await database.unitOfWork.read(({ operations }) => operations.forceDetach(operation.id));
    expect(forced?.params).toEqual({ generation: 1, force: true });
    expect(forced?.deadline.getTime()).toBeGreaterThanOrEqual(operation.deadline.getTime());
  });

  it('become forced while a detach is on its way, and are purged when old', async () => {
    const { operation } = await database.unitOfWork.run(({ operations }) =>
      operations.insert({
        projectId,
        kind: 'detach-volume',
        params: { generation: 1, force: false },
        target: { volumeId: newId('vol'), attachmentId: newId('att') },
        requestDigest: 'x',
      }),
    );
    expect(
      await database.unitOfWork.read(({ operations }) => operations.forceDetach(operation.id)),
    ).toMatchObject({
      params: { generation: 1, force: true },
    });
    const claimed = await claimOrThrow(operation.id);
    await database.unitOfWork.run(({ operations }) => operations.succeed(claimed));
    expect(
      await database.unitOfWork.read(({ operations }) => operations.forceDetach(operation.id)),
    ).toBeUndefined();
    expect(await database.unitOfWork.read(({ operations }) => operations.purgeFinished(60_000))).toBe(0);
    await sql(url, `UPDATE operations SET finished_at = now() - interval '2 minutes' WHERE id = $1`, [
      operation.id,
    ]);
    expect(await database.unitOfWork.read(({ operations }) => operations.purgeFinished(60_000))).toBe(1);
  });
});

describe('nodes', () => {
  it('are ready while they send heartbeats, down when silent, and their pools are those they last named', async () => {
    const id = newId('node');
    const pool = {
      id: newId('pool'),
      directory: '/p',
      totalBytes: 2 ** 50,
      freeBytes: 5,
      provisionedBytes: 7,
      volumes: 1,
    };
    const report = { ...pool, lowSpace: false };
    const beat = {
      id,
      name: 'n1',
      agentUrl: 'http://127.0.0.1:1',
      version: '1',
      exports: 2,
      connectedExports: 1,
      pools: [report],
    };
    await database.unitOfWork.run(({ nodes }) => nodes.heartbeat(beat));
    expect(await database.unitOfWork.read(({ nodes }) => nodes.get(id))).toMatchObject({
      state: 'ready',
      pools: [{ ...pool, nodeId: id }],
    });
    await sql(url, `UPDATE nodes SET last_heartbeat_at = now() - interval '16 seconds' WHERE id = $1`, [id]);
    expect(await database.unitOfWork.read(({ nodes }) => nodes.markSilentDown())).toMatchObject([
      { id, name: 'n1' },
    ]);
    expect(await database.unitOfWork.read(({ nodes }) => nodes.markSilentDown())).toEqual([]);
    const other = { ...report, id: newId('pool') };
    await database.unitOfWork.run(({ nodes }) => nodes.heartbeat({ ...beat, pools: [other] }));
    expect(await database.unitOfWork.read(({ nodes }) => nodes.list())).toMatchObject([
      { state: 'ready', pools: [{ id: other.id }] },
    ]);
  });

  it('tell once that a pool has become low on space, and once that it is not any more', async () => {
    const pool = {
      id: newId('pool'),
      directory: '/p',
      totalBytes: 100,
      freeBytes: 5,
      provisionedBytes: 7,
      volumes: 1,
    };
    const beat = async (lowSpace: boolean) => {
      const changes = await database.unitOfWork.run(({ nodes }) =>
        nodes.heartbeat({
          id,
          name: 'n2',
          agentUrl: 'http://127.0.0.1:1',
          version: '1',
          exports: 0,
          connectedExports: 0,
          pools: [{ ...pool, lowSpace }],
        }),
      );
      const [found] = (await database.unitOfWork.read(({ nodes }) => nodes.get(id))).pools;
      return { became: changes.map(({ became }) => became), since: found!.lowSpaceSince };
    };
    const id = newId('node');
    expect(await beat(false)).toEqual({ became: [], since: undefined });
    const low = await beat(true);
    expect(low).toEqual({ became: ['low'], since: expect.any(Date) });
    expect(await beat(true)).toEqual({ became: [], since: low.since });
    expect(await beat(false)).toEqual({ became: ['enough'], since: undefined });
  });
});

describe('a database that goes away', () => {
  it('is reported as unavailable, kills nothing, and is used again when it is back', async () => {
    const read = () => database.unitOfWork.read(({ nodes }) => nodes.list());
    await read();
    await postgres.shutDown();
    await expect(read()).rejects.toMatchObject({ code: 'dependency-unavailable', retryable: true });
    await expect(database.unitOfWork.run(({ nodes }) => nodes.list())).rejects.toMatchObject({
      code: 'dependency-unavailable',
    });
    await expect(database.ping()).rejects.toThrow();
    await postgres.bringUp();
    await read();
    await database.ping();
  });

  it('rolls back what a killed connection had begun', async () => {
    const running = database.unitOfWork.run(async ({ operations, nodes }) => {
      await operations.insert(createIntent({ clientToken: 'killed' }));
      await sql(
        url,
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test' AND pid <> pg_backend_pid()`,
      );
      return nodes.list();
    });
    await expect(running).rejects.toMatchObject({ code: 'dependency-unavailable' });
    expect(
      await database.unitOfWork.read(({ operations }) => operations.findByClientToken(projectId, 'killed')),
    ).toBeUndefined();
  });
});

describe('an app over PersistenceModule', () => {
  const start = (applicationName: string, waitMs: number) =>
    NestFactory.createApplicationContext(PersistenceModule.forRoot({ url, applicationName, waitMs }), {
      abortOnError: false,
    });
  const connectionsOf = (applicationName: string) =>
    sql(url, 'SELECT pid FROM pg_stat_activity WHERE application_name = $1', [applicationName]);

  it('waits for a database that comes up, and closes its connections with the app', async () => {
    await postgres.shutDown();
    const starting = start('late-app', 20_000);
    await postgres.bringUp();
    const app = await starting;
    await app.get(UnitOfWork).read(({ nodes }) => nodes.list());
    expect(await connectionsOf('late-app')).not.toHaveLength(0);
    await app.close();
    await expect.poll(() => connectionsOf('late-app')).toHaveLength(0);
  });

  it('does not start when the database stays away for longer than it waits', async () => {
    await postgres.shutDown();
    try {
      const startedAt = Date.now();
      await expect(start('app', 700)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
      expect(Date.now() - startedAt).toBeGreaterThanOrEqual(700);
    } finally {
      await postgres.bringUp();
    }
  });
});
