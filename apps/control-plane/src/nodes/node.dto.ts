import {
  isId,
  nodeStates,
  type Heartbeat,
  type Node,
  type NodeId,
  type NodeState,
  type Pool,
} from '@cairn/domain';
import { ApiProperty } from '@nestjs/swagger';
import { Type } from 'class-transformer';
import { ArrayMaxSize, IsArray, ValidateNested } from 'class-validator';
import { boolean, Optional, Required, text, wholeNumber, type Check } from '../http/validation.js';

const POOLS_MAX = 256;
const COUNT_MAX = 2 ** 31 - 1;
const bytes = wholeNumber(0, Number.MAX_SAFE_INTEGER);
const count = wholeNumber(0, COUNT_MAX);

const poolId: Check = (value) => (isId('pool', value) ? undefined : 'must be a pool id');
const httpUrl: Check = (value) =>
  text(1, 1024)(value) === undefined && /^https?:\/\//.test(String(value)) && URL.canParse(String(value))
    ? undefined
    : 'must be an http or https URL';

/** A pool in a heartbeat. */
export class PoolDto {
  @ApiProperty({ example: 'pool-0123456789abcdef0' })
  @Required(poolId)
  id!: `pool-${string}`;

  @ApiProperty({ example: '/var/lib/cairn/pool' })
  @Required(text(1, 4096))
  directory!: string;

  @ApiProperty({ description: 'The size of its file system.' })
  @Required(bytes)
  totalBytes!: number;

  @ApiProperty({ description: 'What its file system has free.' })
  @Required(bytes)
  freeBytes!: number;

  @ApiProperty({ description: 'The sum of the sizes of its volumes, which may exceed totalBytes.' })
  @Required(bytes)
  provisionedBytes!: number;

  @ApiProperty({ description: 'How many volumes it holds.' })
  @Required(count)
  volumes!: number;

  @ApiProperty({ description: 'Whether less is free than its node was told to warn of.', required: false })
  @Optional(boolean)
  lowSpace?: boolean;
}

/** A pool of a node. */
export class NodePoolDto extends PoolDto {
  @ApiProperty({ description: 'Whether less is free than its node was told to warn of.' })
  override lowSpace!: boolean;

  @ApiProperty({ format: 'date-time', required: false, description: 'Absent while it is not.' })
  lowSpaceSince?: string;
}

/** What a node says about itself. */
export class HeartbeatDto {
  @ApiProperty({ example: 'host-1' })
  @Required(text(1, 255))
  name!: string;

  @ApiProperty({ example: 'http://10.0.0.5:8701', description: 'Where workers reach its agent.' })
  @Required(httpUrl)
  agentUrl!: string;

  @ApiProperty({ example: '0.1.0' })
  @Required(text(1, 64))
  version!: string;

  @ApiProperty({ description: 'How many volumes it serves.' })
  @Required(count)
  exports!: number;

  @ApiProperty({ description: 'How many of them have a guest connected.' })
  @Required(count)
  connectedExports!: number;

  @ApiProperty({ type: [PoolDto] })
  @IsArray({ message: 'must be a list of pools' })
  @ArrayMaxSize(POOLS_MAX, { message: `must not have more than ${POOLS_MAX} pools` })
  @ValidateNested({ each: true, message: 'must be a list of pools' })
  @Type(() => PoolDto)
  pools!: PoolDto[];
}

/** A host that serves volumes. */
export class NodeDto {
  @ApiProperty({ example: 'node-0123456789abcdef0' })
  id!: string;

  @ApiProperty({ example: 'host-1' })
  name!: string;

  @ApiProperty({ enum: nodeStates })
  state!: NodeState;

  @ApiProperty()
  version!: string;

  @ApiProperty()
  agentUrl!: string;

  @ApiProperty()
  exports!: number;

  @ApiProperty()
  connectedExports!: number;

  @ApiProperty({ format: 'date-time' })
  lastHeartbeatAt!: string;

  @ApiProperty({ format: 'date-time' })
  createdAt!: string;

  @ApiProperty({ type: [NodePoolDto] })
  pools!: NodePoolDto[];
}

/** Every node. */
export class NodeListDto {
  @ApiProperty({ type: [NodeDto] })
  nodes!: NodeDto[];
}

/** The heartbeat as the domain knows it. */
export function toHeartbeat(id: NodeId, dto: HeartbeatDto): Heartbeat {
  const { name, agentUrl, version, exports, connectedExports, pools } = dto;
  // A node of an earlier release does not say it.
  const reports = pools.map((pool) => ({ ...roomOf(pool), lowSpace: pool.lowSpace ?? false }));
  return { id, name, agentUrl, version, exports, connectedExports, pools: reports };
}

type Room = Omit<Pool, 'nodeId' | 'lowSpaceSince'>;

function roomOf({ id, directory, totalBytes, freeBytes, provisionedBytes, volumes }: Room): Room {
  return { id, directory, totalBytes, freeBytes, provisionedBytes, volumes };
}

function toPoolDto(pool: Pool): NodePoolDto {
  const { lowSpaceSince } = pool;
  if (lowSpaceSince === undefined) return { ...roomOf(pool), lowSpace: false };
  return { ...roomOf(pool), lowSpace: true, lowSpaceSince: lowSpaceSince.toISOString() };
}

/** The node as the API shows it. */
export function toNodeDto(node: Node): NodeDto {
  const { id, name, state, version, agentUrl, exports, connectedExports } = node;
  return {
    id,
    name,
    state,
    version,
    agentUrl,
    exports,
    connectedExports,
    lastHeartbeatAt: node.lastHeartbeatAt.toISOString(),
    createdAt: node.createdAt.toISOString(),
    pools: node.pools.map(toPoolDto),
  };
}
