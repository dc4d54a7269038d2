/** Whose bytes a volume or snapshot holds, as its node measured in the background. */
export interface SpaceUsage {
  /** What goes when this alone is deleted. */
  uniqueBytes: number;
  /** What it has together with others; these bytes count for each of them. */
  sharedBytes: number;
  measuredAt: Date;
}
