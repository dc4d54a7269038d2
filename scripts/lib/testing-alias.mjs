/** A module hook: `@cairn/<lib>/testing`, which the build leaves as it is, is the compiled testing folder of that lib. */
export function resolve(specifier, context, next) {
  const [, lib] = /^@cairn\/([^/]+)\/testing$/.exec(specifier) ?? [];
  if (!lib) return next(specifier, context);
  return next(new URL(`../../dist/libs/${lib}/src/testing/index.js`, import.meta.url).href, context);
}
