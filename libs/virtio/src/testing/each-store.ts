/** Thrown out of the code under test right after the store at which it was to die. */
export class Killed extends Error {
  override readonly name = 'Killed';
}

type View = Uint8Array | Uint16Array | Uint32Array | Float64Array;

const VIEWS = ['Uint8Array', 'Uint16Array', 'Uint32Array', 'Float64Array'] as const;

/**
 * Runs code that keeps its state in shared memory, and dies by throwing `Killed` right after the given store (0 = the
 * first) to one of the watched buffers: what a SIGKILL between two instructions leaves behind.
 *
 * Every typed array that the code makes over a watched buffer is watched, element stores as well as `fill` and
 * `Atomics.store`, so the code needs no hook of its own. `watches` is asked once for each view.
 */
export class StoreByStore {
  stores = 0;
  killAt = Infinity;
  private readonly targets = new WeakMap<object, View>();

  constructor(private readonly watches: (buffer: ArrayBufferLike) => boolean) {}

  /** Runs `action` with watched typed arrays; false when it was killed. */
  run(action: () => void): boolean {
    const constructors = VIEWS.map((name) => [name, globalThis[name]] as const);
    const { load, store } = Atomics;
    for (const [name, original] of constructors) {
      Object.defineProperty(globalThis, name, {
        value: this.watching(original),
        configurable: true,
        writable: true,
      });
    }
    Atomics.load = ((view: View, index: number) =>
      load(this.target(view) as Uint16Array, index)) as typeof Atomics.load;
    Atomics.store = ((view: View, index: number, value: number) => {
      store(this.target(view) as Uint16Array, index, value);
      if (this.targets.has(view)) this.stored();
      return value;
    }) as typeof Atomics.store;
    try {
      action();
      return true;
    } catch (error) {
      if (error instanceof Killed) return false;
      throw error;
    } finally {
      Object.assign(Atomics, { load, store });
      for (const [name, original] of constructors)
        Object.defineProperty(globalThis, name, { value: original, configurable: true, writable: true });
    }
  }

  private stored(): void {
    this.stores += 1;
    if (this.stores > this.killAt) throw new Killed();
  }

  private target(view: View): View {
    return this.targets.get(view) ?? view;
  }

  private watching(original: { new (...args: never[]): View }): unknown {
    return new Proxy(original, {
      construct: (constructor, args: never[]) => {
        const view: View = new constructor(...args);
        const [source] = args as unknown[];
        const shared = source instanceof ArrayBuffer && this.watches(source);
        return shared ? this.watched(view) : view;
      },
    });
  }

  private watched(view: View): View {
    const proxy = new Proxy(view, {
      get: (target, key) => {
        if (key === 'fill') {
          return (value: number) => {
            for (let index = 0; index < target.length; index += 1) {
              target[index] = value;
              this.stored();
            }
          };
        }
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
      set: (target, key, value: number) => {
        Reflect.set(target, key, value, target);
        this.stored();
        return true;
      },
    });
    this.targets.set(proxy, view);
    return proxy;
  }
}
