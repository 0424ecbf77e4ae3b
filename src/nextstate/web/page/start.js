/* What this service answers, and the tracked posts if it keeps some. */

async function showTracked() {
  $("tracked-error").textContent = "";
  try {
    const index = await ask("track"), entries = Object.values(index.topics).flat();
    overTime($("tracked"), index);
    const posts = entries.reduce((sum, entry) => sum + entry.posts, 0);
    $("tracked-told").textContent = `${count.format(posts)} posts on ${count.format(Object.keys(index.topics).length)} topics.`;
  } catch (error) {
    $("tracked-error").textContent = error.message;
  }
}

async function start() {
  try {
    const health = await ask("health");
    limits = health.limits;
    $("version").textContent = `NextState ${health.version}.`;
    if (!health.answers.includes("score")) {
      $("trouble").textContent = "This service has no model of sentiment; nextstate serve --buzz names one.";
      for (const id of ["text", "file"]) $(id).disabled = true;
      for (const button of $("examples").children) button.disabled = true;
    }
    if (health.answers.includes("track")) {
      $("tracked-card").hidden = false;
      $("refresh").addEventListener("click", showTracked);
      await showTracked();
    }
  } catch (error) {
    $("trouble").textContent = error.message;
  }
}

start();
