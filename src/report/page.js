// Order and filters of the ranked lists. Without a script all lists are shown in the order of the file.
"use strict";
(() => {
    const form = document.getElementById("filters");
    if (!form) return;
    const all = document.getElementById("all");
    const count = document.getElementById("count");
    const none = document.getElementById("none");
    const names = document.getElementById("names");
    const lists = [...all.children].map((element) => ({
        element,
        name: element.querySelector("h3").textContent,
        score: Number(element.dataset.score),
        end: element.querySelector(".end"),
        places: [...element.querySelectorAll(".matches > li")],
    }));

    /** Lists of each end in the order `ends`. */
    const ENDS = 3;

    /** The value of a field; "" for all, also if the page lacks the field. */
    const chosen = (id) => document.getElementById(id)?.value ?? "";
    const fits = (wanted, value) => wanted === "" || wanted === value;

    const bestFirst = (a, b) => b.score - a.score;
    const orders = {
        ends: bestFirst,
        page: () => 0,
        worst: (a, b) => a.score - b.score,
        best: bestFirst,
        name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
    };

    function update() {
        const order = chosen("order");
        const [person, camera, shown] = ["person", "camera", "shown-camera"].map(chosen);
        const sorted = [...lists].sort(orders[order]);
        all.append(...sorted.map((list) => list.element));
        const fitting = sorted.filter(({ element, places }) => {
            for (const place of places) place.hidden = !fits(shown, place.dataset.camera);
            const some = shown === "" || places.some((place) => !place.hidden);
            return some && fits(person, element.dataset.person) && fits(camera, element.dataset.camera);
        });
        const cut = order === "ends" && fitting.length > 2 * ENDS;
        const visible = cut ? [...fitting.slice(0, ENDS), ...fitting.slice(-ENDS)] : fitting;
        for (const { element, end } of lists) {
            element.hidden = true;
            end.hidden = true;
        }
        for (const [place, { element, end }] of visible.entries()) {
            element.hidden = false;
            end.hidden = !cut;
            end.textContent = place < ENDS ? all.dataset.best : all.dataset.worst;
        }
        count.textContent = `${visible.length} of ${lists.length} ${lists.length === 1 ? "list" : "lists"}`;
        none.hidden = visible.length > 0;
        all.classList.toggle("with-names", names.checked);
    }

    form.addEventListener("change", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    // The fields are reset after this event.
    form.addEventListener("reset", () => setTimeout(update));
    form.hidden = false;
    update();
})();
