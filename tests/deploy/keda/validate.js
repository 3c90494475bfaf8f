// Prints why KEDA's schema refuses the ScaledObject in a JSON file; nothing when it accepts it.
import { readFileSync } from "node:fs";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";

try {
  new ScaledObject(JSON.parse(readFileSync(process.argv[2], "utf8"))).validate();
} catch (error) {
  console.log(error.message);
}
