import type { EntityManager, EntityTarget, ObjectLiteral } from 'typeorm';

/**
 * Turns the rows of a hand-written `RETURNING *` or `SELECT *` into entities, transformers applied.
 *
 * The statements are ours and name one table, so a row has that entity's columns.
 */
export function hydrate<E extends ObjectLiteral>(
  manager: EntityManager,
  target: EntityTarget<E>,
  rows: ObjectLiteral[],
): E[] {
  const { driver } = manager.connection;
  const metadata = manager.connection.getMetadata(target);
  return rows.map((row) => {
    const entity = manager.create(target);
    for (const column of metadata.columns) {
      column.setEntityValue(entity, driver.prepareHydratedValue(row[column.databaseName], column));
    }
    return entity;
  });
}

/** Runs a statement that ends in `RETURNING *` and gives the rows as entities. */
export async function returning<E extends ObjectLiteral>(
  manager: EntityManager,
  target: EntityTarget<E>,
  statement: string,
  parameters: unknown[],
): Promise<E[]> {
  // Wrapped in a SELECT, so that the driver answers with rows whatever the command inside is.
  const rows: ObjectLiteral[] = await manager.query(
    `WITH changed AS (${statement}) SELECT * FROM changed`,
    parameters,
  );
  return hydrate(manager, target, rows);
}
