/**
 * The daemon is killed at random moments, while several clients are at work.
 *
 *     KILLS=2000 npm test -- test/long/kill-campaign        so many kills with fake VMs, a tenth with real ones
 *     KILL_SEED=42 npm test -- test/long/kill-campaign      asks for what that seed says
 *
 * Seeds that have found something are in kill-seeds.json, and are always played.
 */
import { randomInt } from "node:crypto";
import { mkdtempDisposable, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { inspect } from "node:util";
import { TemplateStore, defaultCacheFolder, templatesFolder } from "@torpor/storage";
import { StateFolder, makeFakeTemplate } from "@torpor/testing";
import { KillCampaign } from "./kill-campaign.ts";

const kills = Number(process.env["KILLS"] ?? 60);
const killsOfSeed = 15;
const realKills = Math.ceil(kills / 10);
const fresh = Number(process.env["KILL_SEED"] ?? randomInt(2 ** 31));

async function keptSeeds(): Promise<readonly number[]> {
  const text = await readFile(join(import.meta.dirname, "kill-seeds.json"), "utf8");
  return JSON.parse(text) as number[];
}

async function play(t: TestContext, campaign: KillCampaign, count: number): Promise<void> {
  try {
    while (campaign.kills < count) await campaign.round();
    await campaign.end();
  } catch (cause) {
    // What is left in the folder is told too, and would hide it.
    t.diagnostic(inspect(cause));
    throw cause;
  }
  t.diagnostic(`${campaign.kills} kills, ${JSON.stringify(campaign.answers)}`);
}

test("what was acknowledged outlives the kill of a daemon whose VMs die with it", async (t) => {
  for (const seed of [...(await keptSeeds()), fresh]) {
    await t.test(`seed ${seed}`, async (on) => {
      await using cache = await mkdtempDisposable(join(tmpdir(), "torpor-kills-"));
      await makeFakeTemplate(new TemplateStore(templatesFolder(cache.path)), "base");
      await using state = await StateFolder.make(undefined, cache.path);
      const settings = { TORPOR_CACHE: cache.path };
      const campaign = new KillCampaign({
        ...{ vms: "fake", state, settings, seed },
        clients: 4,
        answersMax: 60,
        momentMsMax: 50,
      });
      await play(on, campaign, seed === fresh ? kills : killsOfSeed);
    });
  }
});

test("what was acknowledged outlives the kill of a daemon whose VMs go on", async (t) => {
  t.diagnostic(`seed ${fresh}`);
  await using state = await StateFolder.make(undefined, defaultCacheFolder());
  const campaign = new KillCampaign({
    ...{ vms: "real", state, settings: {}, seed: fresh },
    clients: 2,
    answersMax: 8,
    momentMsMax: 1_500,
  });
  await play(t, campaign, realKills);
});
