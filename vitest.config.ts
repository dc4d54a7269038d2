import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const libs = fileURLToPath(new URL('./libs/', import.meta.url));
const alias = [
  { find: /^@cairn\/([^/]+)\/testing$/, replacement: `${libs}$1/src/testing/index.ts` },
  { find: /^@cairn\/([^/]+)$/, replacement: `${libs}$1/src/index.ts` },
];

/** One vitest project a test size; sizes past unit run their files one after the other. */
const slow = (name: string, minutes: number) => ({
  resolve: { alias },
  test: {
    name,
    include: [`test/${name}/**/*.spec.ts`],
    fileParallelism: false,
    testTimeout: minutes * 60_000,
    hookTimeout: minutes * 60_000,
  },
});

export default defineConfig({
  test: {
    projects: [
      {
        resolve: { alias },
        test: { name: 'unit', include: ['apps/**/*.spec.ts', 'libs/**/*.spec.ts'], testTimeout: 20_000 },
      },
      slow('integration', 2),
      slow('e2e', 3),
      slow('guest', 10),
      slow('crash', 5),
      slow('store', 5),
      slow('fuzz', 5),
    ],
  },
});
