/**
 * The import rules of the house. An edge that is not listed below is an error: there is no exceptions list.
 * Apps never import apps; a lib is entered by its index.ts (or, from specs and test/, by its testing/index.ts).
 */
const allowedLibs = {
  'apps/control-plane': ['domain', 'persistence', 'jobs'],
  'apps/worker': ['domain', 'persistence', 'jobs', 'agent'],
  'apps/data-plane': ['domain', 'agent', 'storage', 'block-export'],
  'apps/cli': ['domain', 'block-export', 'qemu', 'storage', 'agent'],
  'libs/block-export': ['storage', 'vhost-user', 'virtio', 'native'],
  'libs/vhost-user': ['virtio', 'native'],
  'libs/storage': ['native'],
  'libs/persistence': ['domain'],
  'libs/jobs': ['domain'],
  'libs/agent': ['domain'],
  'libs/domain': [],
  'libs/virtio': [],
  'libs/native': [],
  'libs/qemu': [],
};

/** Specs, conformance suites and lib testing folders are not part of the product. */
const testCode = '(\\.spec\\.ts$|\\.conformance\\.ts$|^(apps|libs)/.+/testing/)';

const perPackage = Object.entries(allowedLibs).map(([from, libs]) => ({
  name: `imports-of-${from.replace('/', '-')}`,
  comment: `${from} may import only itself and: ${libs.join(', ') || 'nothing'}.`,
  severity: 'error',
  from: { path: `^${from}/`, pathNot: testCode },
  to: {
    path: '^(apps|libs)/',
    pathNot: [`^${from}/`, ...libs.map((lib) => `^libs/${lib}/`)],
  },
}));

module.exports = {
  forbidden: [
    ...perPackage,
    {
      name: 'no-circular',
      comment: 'A cycle has no order to read it in.',
      severity: 'error',
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'not-to-unresolvable',
      comment: 'The import does not resolve to a file or an installed package.',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: 'no-dev-dependency-in-product',
      comment: 'The product runs without devDependencies.',
      severity: 'error',
      from: { path: '^(apps|libs)/', pathNot: testCode },
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown'], dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'apps-never-import-apps',
      severity: 'error',
      from: { path: '^apps/([^/]+)/' },
      to: { path: '^apps/', pathNot: '^apps/$1/' },
    },
    {
      name: 'libs-never-import-apps',
      severity: 'error',
      from: { path: '^libs/' },
      to: { path: '^apps/' },
    },
    {
      name: 'libs-by-their-index-only-from-apps',
      severity: 'error',
      from: { path: '^apps/' },
      to: { path: '^libs/', pathNot: '^libs/[^/]+/src/(testing/)?index\\.ts$' },
    },
    {
      name: 'libs-by-their-index-only-from-libs',
      severity: 'error',
      from: { path: '^libs/([^/]+)/' },
      to: { path: '^libs/', pathNot: ['^libs/$1/', '^libs/[^/]+/src/(testing/)?index\\.ts$'] },
    },
    {
      name: 'testing-only-from-tests',
      comment: 'libs/*/src/testing is for specs and test/; the product must not depend on it.',
      severity: 'error',
      from: { path: '^(apps|libs)/', pathNot: testCode },
      to: { path: '^libs/[^/]+/src/testing/' },
    },
    {
      name: 'typeorm-only-in-persistence',
      severity: 'error',
      from: { path: '^(apps|libs)/', pathNot: '^libs/persistence/' },
      to: { path: 'node_modules/(typeorm|@nestjs/typeorm)/' },
    },
    {
      name: 'bullmq-only-in-jobs-and-the-processor',
      severity: 'error',
      from: {
        path: '^(apps|libs)/',
        pathNot: ['^libs/jobs/', '^apps/worker/src/operations/operation\\.processor\\.(spec\\.)?ts$'],
      },
      to: { path: 'node_modules/(bullmq|@nestjs/bullmq)/' },
    },
    {
      name: 'no-nest-in-pure-libs',
      severity: 'error',
      from: { path: '^libs/(domain|virtio|vhost-user|storage|native|block-export|qemu)/' },
      to: { path: 'node_modules/@nestjs/' },
    },
    {
      name: 'virtio-and-domain-do-no-io',
      comment: 'Pure code: no Node module that reads or writes anything outside the process.',
      severity: 'error',
      from: { path: '^libs/(domain|virtio)/src/', pathNot: testCode },
      to: {
        dependencyTypes: ['core'],
        path: '^(node:)?(fs|net|http|https|child_process|worker_threads|dgram)',
      },
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '(^|/)(dist|build)/' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      extensions: ['.ts', '.js', '.mjs', '.cjs', '.json'],
    },
  },
};
