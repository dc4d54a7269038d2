# One image for the three apps; docker-compose.yml says which one a container runs.
ARG NODE_IMAGE=node:20.20.2-bookworm-slim

FROM ${NODE_IMAGE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY nest-cli.json tsconfig.json tsconfig.build.json ./
COPY scripts ./scripts
COPY libs ./libs
COPY apps ./apps
RUN node scripts/build-native.mjs && npx nest build
# What is optional is the embedded PostgreSQL, which has no place beside a real one.
RUN npm prune --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund

FROM ${NODE_IMAGE}
ENV NODE_ENV=production CAIRN_LOG=json
WORKDIR /opt/cairn
# The apps' user; the directories that the data plane writes to on the host must belong to it.
RUN groupadd --system --gid 8700 cairn \
 && useradd --system --uid 8700 --gid cairn --no-create-home --shell /usr/sbin/nologin cairn
COPY --from=build /src/node_modules ./node_modules
COPY --from=build /src/dist ./dist
COPY package.json LICENSE ./
COPY docker/*.mjs ./docker/
USER cairn
CMD ["node", "dist/apps/control-plane/src/main.js"]
