/** A template of fake VMs: a small guest at rest, as if it had been booted and saved. */
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { guestMac } from "@torpor/protocol";
import { type TemplateStore, digestChunks } from "@torpor/storage";
import { clusterBytes } from "./fake-disk.ts";
import { fakeIdentity, fakeMachineWords } from "./fake-driver.ts";
import { encodeMind } from "./fake-guest.ts";
import { pageBytes } from "./fake-memory.ts";
import { diskClusters } from "./fake-process.ts";
import { patternOf } from "./pattern.ts";

const templateId = "fake0template0000000";
const memoryMiB = 1;
const hostKey = "key of the template";

/**
 * The content of a page of the image after the first, which is the agent's: every other page is
 * zeros.
 */
export function imagePage(page: number): string {
  return page % 2 === 0 ? `image page ${page}` : "";
}

/** The content of a guest cluster of the template's disk: every other cluster is zeros. */
export function imageCluster(cluster: number): string {
  return cluster % 2 === 0 ? `image cluster ${cluster}` : "";
}

/**
 * Publishes a template of fake VMs.
 * @param build Another build has other memory under the same id, like two boots of one recipe.
 * @returns the template's id
 */
export async function makeFakeTemplate(
  templates: TemplateStore,
  name: string,
  build = "",
): Promise<string> {
  await using staged = await templates.stage(templateId);
  const { files } = staged;
  const memory = imageMemory(build);
  const disk = Array.from({ length: diskClusters }, (_, cluster) => imageCluster(cluster));
  const memorySha1 = createHash("sha1").update(memory).digest("hex");
  await writeFile(files.kernelPath, "");
  await writeFile(files.initramfsPath, "");
  await writeFile(files.memoryPath, memory);
  await writeFile(files.diskPath, Buffer.concat(disk.map((text) => patternOf(text, clusterBytes))));
  await writeFile(files.deviceStatePath, JSON.stringify({ memorySha1, disk }));
  await staged.publish({
    format: "torpor-template-3",
    templateId,
    name,
    createdAtMs: Date.now(),
    identity: fakeIdentity,
    machine: {
      vcpuCount: 1,
      memoryMiB,
      kernelArguments: "",
      guestMac,
      guestVisible: fakeMachineWords,
    },
    diskBytes: diskClusters * clusterBytes,
    deviceState: await digestChunks(files.deviceStatePath),
    hostKey,
    generation: 1,
  });
  await templates.assignName(name, templateId);
  return templateId;
}

function imageMemory(build: string): Buffer {
  const pages = (memoryMiB * 1024 * 1024) / pageBytes;
  const mind = encodeMind({
    atRest: true,
    generation: 1,
    hostKey,
    previousHostKey: "",
    sandboxId: "",
    accessToken: null,
    randomHash: "",
  });
  const others = Array.from({ length: pages - 1 }, (_, index) =>
    patternOf(`${imagePage(index + 1)}${build}`, pageBytes),
  );
  return Buffer.concat([mind, ...others]);
}
